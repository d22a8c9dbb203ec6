"""TensorRT for RTX: a graph in, an engine for GPUs of named compute capabilities out, built on any machine.

https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/
"""

from export.engine.tensorrt_rtx.build import compile_graph, version

__all__ = ["compile_graph", "version"]
