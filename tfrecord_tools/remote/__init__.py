"""Read and write objects in a bucket."""
