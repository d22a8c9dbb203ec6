"""Read files safely and write them whole or not at all, one writer at a time."""
