"""Switch off AutoGraph for functions that TensorFlow traces.

By default, TensorFlow rewrites the source of each traced function and of all functions that it calls (AutoGraph), so
that `if` and `for` work with tensors. The functions of this project do not need that. For an augmentation, rewriting
takes ten times as long as tracing: 2 to 3 s at the start of each training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

Step = TypeVar("Step", bound=Callable[..., Any])


def plain(step: Step) -> Step:
    """Switch off AutoGraph for a function and the functions that it calls; also a decorator."""
    marked: Step = tf.autograph.experimental.do_not_convert(step)
    return marked
