"""What every package that edits ONNX graphs shares: constants, attributes, opset, validity, sizes. Needs onnx, not torch."""
