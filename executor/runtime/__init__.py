"""Several DNNs under one budget."""
