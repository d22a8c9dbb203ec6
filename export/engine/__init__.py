"""Compile a bundle's graphs to engines: what a vendor's compiler makes of a graph, kept in the bundle under `engines/`."""
