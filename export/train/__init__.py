"""The recipe behind the weights that ship with sredge, for anybody's pictures: python -m export.train."""
