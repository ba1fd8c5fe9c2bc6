"""Delays of storage and blocks on this device."""
