"""Cost of a lower precision: outputs, tasks and layers of two models compared on samples."""
