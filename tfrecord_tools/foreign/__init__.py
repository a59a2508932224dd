"""Read, index and rewrite TFRecords that other tools wrote."""
