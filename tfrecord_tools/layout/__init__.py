"""The dataset format: examples, index, file names, digest, convert.json, splits."""
