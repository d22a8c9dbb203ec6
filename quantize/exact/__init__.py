"""Rewrite a graph exactly, so that int8 loses less: these rewrites run before any weight is rounded."""
