"""Decode the bytes of an image to pixels, as TensorFlow's operations define them."""
