"""Models for TensorFlow Serving, LiteRT and ONNX, and the check of what was written."""
