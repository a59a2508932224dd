"""GPUs, workers, and what is wrong with them."""
