"""Benchmarks: sides in their own processes that run in turn, and the report."""
