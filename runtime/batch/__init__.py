"""Many picture files through one Upscaler: which jobs there are, what memory each may take, what became of each."""
