"""What a lower precision costs: outputs, tasks and layers of two models compared on samples."""
