"""Upscale many picture files with one Upscaler: which jobs there are, what memory each may take, what became of each."""
