"""Timelines in the Trace Event Format, and pages of HTML."""
