"""Models in lower precision: weights in int8 or float16, activations in int8."""
