"""The int8 graph itself: which tensors get a quantizer, writing and reading Q/DQ pairs, running a graph operator by operator."""
