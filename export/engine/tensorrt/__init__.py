"""Build TensorRT engines on the machine whose GPU runs them: a graph and a key in, a plan out."""
