"""Trainers: from a dataset directory to a run directory with a trained classifier."""

from __future__ import annotations

import os

# TensorFlow's errors are shown, not its remarks on the processor; to be set before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
