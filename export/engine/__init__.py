"""TensorRT engines: a bundle's graph to a plan for this machine's GPU."""
