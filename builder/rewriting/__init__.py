"""Change the graph so that it computes the same faster, or in parts."""
