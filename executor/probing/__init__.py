"""Measure what an engine needs by running it."""
