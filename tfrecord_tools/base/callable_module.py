"""Make modules callable like functions: `trainers.finetune(tfrecords="out")`.

The command `python -m trainers.finetune` needs a module of this name. A function of the same name in the package would
be replaced by the module as soon as anybody imports it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make(module: str, function: Callable[..., Any]) -> None:
    """Make a module callable: a call of the module calls one of its functions.

    Args:
        module: `__name__` of the module.
        function: Function to call. `help(module)` and editors show the arguments of this function.
    """
    own: Any = sys.modules[module]
    # Setting the class of a module is the documented way ("Customizing module attribute access").
    own.__class__ = type("CommandModule", (ModuleType,), {"__call__": staticmethod(function)})
    own.__signature__ = inspect.signature(function)
