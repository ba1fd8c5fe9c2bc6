"""Decide which blocks stay in memory, where the others lie, and when each is read."""
