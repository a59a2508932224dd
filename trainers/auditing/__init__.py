"""Find doubtful records: wrong labels, strangers, near-duplicates. NumPy and SciPy only, no TensorFlow."""
