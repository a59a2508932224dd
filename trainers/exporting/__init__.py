"""Export models for TensorFlow Serving, LiteRT and ONNX, and check the written files."""
