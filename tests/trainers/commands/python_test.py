"""Trainings from Python are those of the command line, and a `Run` does what the commands do."""

from __future__ import annotations

import inspect
import json
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from image_sources import converted, run, tree
from PIL import Image
from tiny_backbone import FLAGS  # noqa: F401

import trainers
from tfrecord_tools.base import options
from tfrecord_tools.errors import UserError
from trainers import training_options
