"""Train the weights that ship with sredge, or a network on anybody's pictures: python -m export.train."""
