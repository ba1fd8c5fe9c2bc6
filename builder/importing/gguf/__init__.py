"""Files of llama.cpp (GGUF), written as the folder that onnxruntime-genai reads."""
