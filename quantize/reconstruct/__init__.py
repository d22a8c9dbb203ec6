"""Gradient-based recovery, and the only code outside `export` that imports torch: imported where it is wanted, not before."""
