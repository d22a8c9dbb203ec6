"""Write .tflite files: an ONNX graph, fp32, fp16 or int8, in; a file for LiteRT out, with the graph's own integers."""
