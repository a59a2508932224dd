"""What reader and writer share: examples, index, names of files, digest, convert.json, splits."""
