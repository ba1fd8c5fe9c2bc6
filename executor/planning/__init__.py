"""Which blocks stay in memory, where the others lie, and what is read when."""
