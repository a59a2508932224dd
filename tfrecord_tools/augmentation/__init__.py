"""Random changes of images as tensors."""
