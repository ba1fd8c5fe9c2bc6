"""Bring bytes from storage to their place in memory, in time."""
