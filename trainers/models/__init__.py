"""Networks, model files, and compiled models."""
