"""Rewrites that keep the function and make int8 lose less: they run before any weight is rounded."""
