"""Device work below the backends: streams, memory, staging, and values on a GPU."""
