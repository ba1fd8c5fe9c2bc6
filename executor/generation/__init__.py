"""Text from a language model: tokens one by one, inside a budget."""
