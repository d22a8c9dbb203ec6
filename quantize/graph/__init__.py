"""Place, write and read the quantizers of an int8 graph, and run a graph operator by operator."""
