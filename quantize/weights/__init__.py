"""Rounding the weights of layers, and correcting what rounding changed."""
