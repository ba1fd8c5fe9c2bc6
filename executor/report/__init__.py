"""What happened, for a reader: timelines in the Trace Event Format, and pages of HTML."""
