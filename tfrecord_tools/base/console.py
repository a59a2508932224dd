"""Import TensorFlow in commands without its remarks on standard error and without garbage collection.

TensorFlow 2.21 writes some remarks about the machine before its log level takes effect: that oneDNN is on, and that
there is no GPU. Commands hide these remarks and show everything else.

The import makes half a million objects that live until the exit. Python's garbage collector would look at all of them
several times during the import, and again and again later: together a tenth of the time of a short command.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 0: all messages; 1: no remarks; 2: no warnings either; 3: no errors either.
_REMARKS = (
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    rb"I0000 .*oneDNN custom operations are on\..*",
    rb"I0000 .*Could not find cuda drivers on your machine, GPU will not be used\.",
    # Only these two reasons are hidden: the driver or the GPU is missing. All other errors of cuInit are shown.
    rb"E0000 .*failed call to cuInit: .*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE).*",
)
# The filter is a separate process, so that it also shows the last lines of an import that crashes. It exits at the
# end of its input.
_FILTER = """
import os, re, sys
remark = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not remark.fullmatch(line.rstrip(b"\\r\\n")):
        os.write(1, line)
"""


def quiet_tensorflow() -> None:
    """Hide TensorFlow's remarks about the machine in this process, but not its warnings and errors.

    Call it before TensorFlow is imported, as the commands of this package do. Later, it has no effect. With the
    environment variable TF_CPP_MIN_LOG_LEVEL=0 or 1, the remarks are shown.
    """
    os.environ.setdefault(_LEVEL, "2")
    if os.environ[_LEVEL] in ("2", "3") and not is_quiet() and "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, such as Jupyter, Colab or Kaggle."""
    # Other programs may import ipykernel, too. Only a kernel has a shell.
    return "ipykernel" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def bar_verbosity() -> int:
    """Return `verbose` for `fit`: 1 (progress) in terminals and notebooks, else 2 (one line per epoch)."""
    return 1 if sys.stdout.isatty() or in_notebook() else 2


def is_quiet() -> bool:
    """Return whether TensorFlow's remarks are hidden in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


class _Finder(importlib.abc.MetaPathFinder):
    """Import hook that finds TensorFlow as usual, and imports it without remarks and garbage collection."""

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
        module.__spec__.loader = module.__loader__ = self._loader  # `importlib.resources` needs the real loader.
        with _filtered_stderr(), _without_collection():
            self._loader.exec_module(module)
            module.config.list_physical_devices()  # The first call writes a remark, so it is made here.


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Switch garbage collection off. Exempt all objects at the end of the block from later collections."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Pass everything that is written to file descriptor 2 through the filter."""
    try:
        original = os.dup(2)
    except OSError:  # Standard error is closed.
        yield
        return
    try:
        command = [sys.executable, "-I", "-S", "-c", _FILTER, "|".join(remark.decode() for remark in _REMARKS)]
        # The filter has its own session, so that Ctrl-C does not stop it before the command.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=original, start_new_session=True) as process:
            assert process.stdin is not None
            os.dup2(process.stdin.fileno(), 2)
            process.stdin.close()
            try:
                yield
            finally:
                os.dup2(original, 2)  # This closes the pipe: the filter exits, and `with` waits for it.
    finally:
        os.close(original)
