"""Child processes of ours: how they start, answer, fail and are limited."""
