"""Set up devices and workers for a training, and diagnose a machine."""
