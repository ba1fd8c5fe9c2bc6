"""Compile blocks, one module or folder for each backend."""
