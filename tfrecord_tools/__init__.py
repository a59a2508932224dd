"""Image directories to verified, indexed TFRecords, and back into `tf.data` pipelines."""

__version__ = "0.1.0"
