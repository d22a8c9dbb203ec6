"""What tests of TensorRT's backend run on where there is no GPU: NVIDIA's real Python bindings over libraries of ours.

The bindings' classes and signatures are real, and so is pycuda. The libraries below them are not: `driver.c` is a CUDA driver that
keeps a GPU's memory on the host, and `tensorrt_api.py` an engine that is ONNX Runtime behind the real signatures.
"""
