"""Samples and pictures that a user gives."""
