"""Measure the needs of an engine by running it."""
