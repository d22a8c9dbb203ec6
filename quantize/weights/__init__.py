"""Round the weights of layers, and correct what rounding changed."""
