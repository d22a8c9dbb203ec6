"""Turn picture files into arrays and back: decode, encode, colour, alpha, 8 and 16 bits, bicubic enlargement."""
