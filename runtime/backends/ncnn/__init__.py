"""Run graphs with ncnn, on the CPU or a Vulkan GPU: ONNX bytes in, a backend out; ncnn's .param and .bin are written in memory."""

from .backend import NcnnBackend, open_graph

__all__ = ["NcnnBackend", "open_graph"]
