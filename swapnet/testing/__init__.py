"""Test doubles for code that uses SwapNet: a simulated engine and a simulated GPU."""
