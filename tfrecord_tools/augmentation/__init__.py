"""Change training images at random (augmentation), with TensorFlow operations."""
