"""Recover what rounding lost, by gradients: the only code outside `export` that imports torch, imported where it is needed."""
