"""Set up the device and the workers of a training, and check a machine."""
