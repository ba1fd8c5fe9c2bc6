"""Several DNNs under one budget and a given traffic: what their users would see, measured."""
