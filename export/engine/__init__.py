"""Build TensorRT engines: a bundle's graph in, a plan for this machine's GPU out."""
