"""Choose where the graph is cut into blocks, and how large they are."""
