"""TFRecords that other tools wrote."""
