"""A GPU below the backends: streams, memory, staging, and values on it."""
