"""Write blocks, weights and the engine directory."""
