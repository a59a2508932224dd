"""Find doubtful records: wrong labels, off-topic images, near-duplicates. Does not need TensorFlow."""
