"""Find doubtful records, without TensorFlow: wrong labels, strangers, near-duplicates."""
