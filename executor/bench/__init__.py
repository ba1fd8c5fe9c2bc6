"""Benchmarks: sides that take turns in processes of their own, and the report."""
