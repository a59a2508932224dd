"""What a command shows on standard error of what TensorFlow writes there while it is imported.

TensorFlow 2.21 writes remarks on the machine before its own log level is in effect: that oneDNN is on, and that there
is no GPU. They would stand between the lines of a command. Everything else that it writes is shown.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 0: everything; 1: no remarks; 2: no warnings either; 3: no errors either.
_REMARKS = (
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    rb"I0000 .*oneDNN custom operations are on\..*",
    rb"I0000 .*Could not find cuda drivers on your machine, GPU will not be used\.",
    # There is no driver, or no GPU. Other reasons are errors.
    rb"E0000 .*failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE).*",
)
# A process of its own, so that the last words of an import that crashes are shown too. It ends with its input.
_FILTER = """
import os, re, sys
remark = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not remark.fullmatch(line.rstrip(b"\\r\\n")):
        os.write(1, line)
"""


def quiet_tensorflow() -> None:
    """Hides TensorFlow's remarks in this process: to be called by commands, before TensorFlow is imported.

    A user who sets TF_CPP_MIN_LOG_LEVEL to 0 or 1 sees the remarks.
    """
    os.environ.setdefault(_LEVEL, "2")
    if os.environ[_LEVEL] in ("2", "3") and not is_quiet() and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


def is_quiet() -> bool:
    """Whether TensorFlow's remarks are hidden in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as it would be found without this finder, and filters what its import writes."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader  # Resources are asked for there.
        with _filtered_stderr():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # Writes the last of the remarks, the first time that it is called.


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Passes what is written to file descriptor 2 through the filter."""
    try:
        kept = os.dup(2)
    except OSError:  # Standard error is closed.
        yield
        return
    try:
        command = [sys.executable, "-I", "-S", "-c", _FILTER, "|".join(remark.decode() for remark in _REMARKS)]
        # In a session of its own, since Ctrl-C must not end it before the command.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=kept, start_new_session=True) as process:
            assert process.stdin is not None
            os.dup2(process.stdin.fileno(), 2)
            process.stdin.close()
            try:
                yield
            finally:
                os.dup2(kept, 2)  # Closes the pipe; the filter ends, and is waited for.
    finally:
        os.close(kept)
