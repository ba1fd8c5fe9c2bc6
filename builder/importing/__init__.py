"""Read an ONNX model: its graph, constants and shapes."""
