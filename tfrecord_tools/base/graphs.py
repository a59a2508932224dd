"""Functions that become TensorFlow graphs as they are written.

By default, TensorFlow rewrites the source of each function that it traces, and of all functions that this one calls,
so that `if` and `for` work with tensors (AutoGraph). None of our functions needs that. For an augmentation, rewriting
takes ten times as long as tracing: 2 to 3 s at the start of each training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

Step = TypeVar("Step", bound=Callable[..., Any])


def plain(step: Step) -> Step:
    """Marks a function, for use as a decorator too. What it calls while it is traced is not rewritten either."""
    marked: Step = tf.autograph.experimental.do_not_convert(step)
    return marked
