"""Blocks compiled by TensorRT and TensorRT-RTX: a serialized engine each."""
