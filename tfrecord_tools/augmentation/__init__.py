"""Random changes of images, as TensorFlow operations."""
