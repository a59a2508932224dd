"""Tests that every process exits within two seconds of its last statement, with the right exit code.

The scripts run as separate processes. Each script ends while threads of its iterators are decoding images.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from image_sources import REPOSITORY, converted
from PIL import Image

MOST_SECONDS = 2.0
# A process that has only imported TensorFlow needs one second of processor time to exit, and longer on a busy machine.
# If a script takes more than MOST_SECONDS, that time is measured, and this factor is allowed.
MOST_TIMES_BARE = 3.0
BARE = "import time\nimport tensorflow as tf\ntf.zeros(1)\nprint('last', time.time(), flush=True)"
# TensorFlow 2.21 crashes if an interrupt arrives while it reads the arguments of an operation, also without this
# package: of 30 loops over a plain tf.data.Dataset that were interrupted right after a print, 5 crashed. After this
# time, a script waits for its next batch.
BEFORE_INTERRUPT = 0.03
# TensorFlow 2.21 also loses an interrupt that arrives while it calls Python to read an argument: 2 of 400 in the fit of
# Keras without this package. The script then says `ready` once more, and is interrupted again, as a user would do.
MOST_READY = 2
RUNS = 20
EXAMPLES = REPOSITORY / "examples"

START = """
import sys, threading, time
from tfrecord_tools import dataset
records = dataset.open("out").records("train")
validation = dataset.open("out").records("validation")

def train(**settings):
    defaults = {"batch_size": 32, "image_size": 96, "seed": 0, "jit": False, "endless": True}
    return dataset.train_batches(records, **(defaults | settings))

def evaluated():
    return dataset.eval_batches(validation, batch_size=16, image_size=96)

def last():
    print("last", time.time(), flush=True)
"""
# Worker processes run the script's first lines too, and Grain waits for the exit of one worker after the other. With
# TensorFlow in each of them, a plain Grain script without this package takes as long: 2.2 to 2.7 seconds.
READER = """
import time
from tfrecord_tools.records import open_dataset
records = open_dataset("out").records("train")

def last():
    print("last", time.time(), flush=True)
"""
FIT = """
import keras
class Callback(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch % 100 == 2:
            act()

def fit(data):
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(data, steps_per_epoch=10_000, validation_data=evaluated(), callbacks=[Callback()], verbose=0)
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A script and its expected end.

    Attributes:
        script: Code after `start`. The last statement prints `last` and the time. A script that is interrupted prints
            `ready` instead.
        code: Exit code. Negative: number of the signal that ended the script.
        error: Part of the output on standard error.
        signals: Number of interrupts after `ready`.
        quick: Whether the case is in the quick set of tests.
        start: First lines of the script.
    """

    script: str
    code: int = 0
    error: str = ""
    signals: int = 0
    quick: bool = False
    start: str = START


CASES = {
    "one iterator": Case("it = iter(train()); next(it); last()", quick=True),
    "as_numpy_iterator": Case("it = train().as_numpy_iterator(); next(it); last()"),
    "validation not used up": Case("it = iter(evaluated()); next(it); last()"),
    "several iterators": Case(
        """
        from pathlib import Path
        its = [iter(train()), train(seed=1).as_numpy_iterator(), iter(evaluated()), evaluated().as_numpy_iterator()]
        its.append(iter(dataset.serialized_batches(records, batch_size=32, seed=0)))
        its.append(iter(train(cache=dataset.cache_pixels(records, image_size=96))))
        for it in its:
            next(it)
        last()
        """
    ),
    "features": Case(
        """
        import numpy as np
        from trainers.fitting.features_cache import Features
        features = Features(np.zeros((1000, 512), np.float32), np.zeros(1000, np.int64), np.arange(1000))
        its = [iter(features.shuffled(32, 0)), iter(features.in_order(32))]
        for it in its:
            next(it)
        last()
        """
    ),
    "further steps of the user": Case(
        """
        import tensorflow as tf
        data = train().unbatch().shuffle(50).batch(8).map(lambda x, y: (tf.cast(x, tf.float32), y), 4).prefetch(8)
        it = iter(data)
        next(it)
        last()
        """
    ),
    "an iterator that was never used": Case("it = iter(train()); last()"),
    "an iterator in a cycle": Case("it = iter(train()); next(it); cycle = [it]; cycle.append(cycle); del it; last()"),
    "large chunks of slow images": Case(
        """
        from tfrecord_tools.decoding import decoder
        decode_into = decoder.decode_into
        def slow(*arguments):
            time.sleep(0.05)
            return decode_into(*arguments)
        decoder.decode_into = slow
        it = iter(train(batch_size=128, image_size=200)); next(it); last()
        """
    ),
    "large chunks from a slow disk": Case(
        """
        from tfrecord_tools.base import files
        read_into = files.read_into
        def slow(*arguments):
            time.sleep(0.05)
            return read_into(*arguments)
        records = dataset.open("raw").records("train")
        files.read_into = slow
        it = iter(train(batch_size=128, image_size=8)); next(it); last()
        """,
        quick=True,
    ),
    "sys.exit": Case("it = iter(train()); next(it); last(); sys.exit(3)", 3),
    "an error": Case("it = iter(train()); next(it); last(); 1 / 0", 1, "ZeroDivisionError"),
    "an error in a function": Case(
        """
        def look():
            for batch in train():
                last()
                raise ValueError(batch[0].shape)
        look()
        """,
        1,
        "ValueError",
    ),
    "an error in fit": Case(FIT + "def act(): last(); 1 / 0\nfit(train())", 1, "ZeroDivisionError", quick=True),
    "an error of the user's step": Case(
        """
        import tensorflow as tf
        def refuse(images, labels):
            with tf.control_dependencies([tf.debugging.assert_less(labels, tf.constant(0, tf.int64))]):
                return tf.identity(images), labels
        it = iter(train().map(refuse, 2))
        last()
        next(it)
        """,
        1,
        "InvalidArgumentError",
    ),
    "sys.exit in a callback": Case(FIT + "def act(): last(); sys.exit(7)\nfit(train())", 7),
    "Ctrl-C in fit": Case(
        FIT + "def act(): print('ready', flush=True)\nfit(train())",
        -signal.SIGINT,
        "KeyboardInterrupt",
        signals=1,
        quick=True,
    ),
    "Ctrl-C in a loop": Case(
        "for i, batch in enumerate(train()):\n    if i % 100 == 2: print('ready', flush=True)",
        -signal.SIGINT,
        "KeyboardInterrupt",
        signals=1,
    ),
    "Ctrl-C again and again": Case(
        "it = iter(train()); next(it); print('ready', flush=True); time.sleep(60)",
        -signal.SIGINT,
        "KeyboardInterrupt",
        signals=4,
    ),
    "a thread that ends": Case(
        """
        its = []
        def take():
            its.append(iter(train()))
            for _ in range(5):
                next(its[0])
            last()
        threading.Thread(target=take).start()
        """
    ),
    "a daemon thread that reads on": Case(
        """
        def take():
            for batch in train():
                began.set()
        began = threading.Event()
        threading.Thread(target=take, daemon=True).start()
        began.wait()
        last()
        """
    ),
    "a daemon thread that ignores errors": Case(
        """
        def take():
            it = iter(train())
            while True:
                try:
                    next(it)
                    began.set()
                except Exception:
                    pass
        began = threading.Event()
        threading.Thread(target=take, daemon=True).start()
        began.wait()
        last()
        """
    ),
    "forked workers at the same time": Case(
        """
        import multiprocessing
        it = iter(train())
        next(it)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(len, ["a", "bb"]) == [1, 2]
        last()
        """
    ),
    "spawned workers at the same time": Case(
        """
        from concurrent.futures import ProcessPoolExecutor
        import multiprocessing
        if __name__ == "__main__":
            it = iter(train())
            next(it)
            with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
                assert list(pool.map(len, ["a", "bb"])) == [1, 2]
            last()
        """
    ),
    "Grain in this process": Case(
        """
        from read_grain import loader
        it = iter(loader(records, 96, 8, workers=0))
        next(it)
        last()
        """
    ),
    "Grain in other processes": Case(
        """
        from read_grain import loader
        if __name__ == "__main__":
            it = iter(loader(records, 96, 8, workers=2))
            next(it)
            last()
        """,
        start=READER,
    ),
    "Grain and TensorFlow": Case(
        """
        from read_grain import loader
        its = [iter(train()), iter(loader(records, 96, 8, workers=0))]
        for it in its:
            next(it)
        last()
        """
    ),
}


TORCH = """
from read_torch import loader
if __name__ == "__main__":
    its = [iter(train()), iter(loader(records, 96, 8, workers={workers}))]
    for it in its[{first}:]:
        next(it)
    last()
"""
INTEROP = {
    "PyTorch in this process": Case(TORCH.format(workers=0, first=1)),
    "PyTorch in other processes": Case(TORCH.format(workers=2, first=1)),
    "PyTorch and TensorFlow": Case(TORCH.format(workers=0, first=0)),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a dataset in `out` with images so large that decoding one takes milliseconds."""
    workspace = tmp_path_factory.mktemp("exit")
    random = np.random.default_rng(0)
    for split, count in (("train", 100), ("validation", 50)):
        for name in ("cats", "dogs"):
            (workspace / "src" / split / name).mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), np.uint8))
                coarse.resize((640, 480)).save(workspace / "src" / split / name / f"{number}.jpg")
    converted(workspace / "src", workspace / "out")
    converted(workspace / "src", workspace / "raw", store="raw", resize=8, resize_mode="exact")
    return workspace


def begin(workspace: Path, *command: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{EXAMPLES}", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def watch(process: subprocess.Popen[str], signals: int = 0) -> tuple[str, float]:
    """Wait for the exit of a process and return its standard error and the seconds until the exit.

    The time starts at the last statement of the script, or at the first signal after `ready`.

    Args:
        process: Process of a script.
        signals: Number of interrupts to send after `ready`.
    """
    assert process.stdout is not None
    killer = threading.Timer(120, process.kill)
    killer.start()
    began, ready = None, 0
    for line in process.stdout:
        if line.startswith("last "):
            began = float(line.split()[1])
        elif line.startswith("ready"):
            ready += 1
            assert ready <= MOST_READY, "the interrupts have no effect"
            began = time.time()
            for _ in range(signals):
                time.sleep(BEFORE_INTERRUPT)
                process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    ended = time.time()
    killer.cancel()
    assert began is not None, error
    return error, ended - began


def exits_in_time(case: Case, workspace: Path) -> bool:
    """Run a script, check its exit code and its error, and return whether it exits in time."""
    program = workspace / f"{abs(hash(case.script))}.py"
    program.write_text(case.start + textwrap.dedent(case.script))
    with begin(workspace, program.name) as process:
        error, seconds = watch(process, case.signals)
    assert process.returncode == case.code, error
    assert case.error in error
    if seconds < MOST_SECONDS:
        return True
    with begin(workspace, "-c", BARE) as process:
        return seconds < MOST_TIMES_BARE * watch(process)[1]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.quick])
def test_a_process_exits(name: str, workspace: Path) -> None:
    """TensorFlow rarely waits for a thread of its own. So after a late exit, two more must be in time."""
    assert exits_in_time(CASES[name], workspace) or all(exits_in_time(CASES[name], workspace) for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_process_exits_every_time(name: str, workspace: Path) -> None:
    for _ in range(RUNS):
        assert exits_in_time(CASES[name], workspace)


@pytest.mark.interop
@pytest.mark.parametrize("name", INTEROP)
def test_a_process_with_pytorch_exits(name: str, workspace: Path) -> None:
    assert exits_in_time(INTEROP[name], workspace) or all(exits_in_time(INTEROP[name], workspace) for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("restart", [False, True])
def test_a_notebook_kernel_exits(restart: bool, workspace: Path) -> None:
    """Interrupt a training and shut down the kernel, as notebooks do."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.shutdown_wait_time = 30  # After this number of seconds, the kernel would be killed.
    manager.start_kernel(cwd=str(workspace), env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        cells = [START + "it = iter(train())\nbatch = next(it)", FIT + "def act(): pass", "fit(train())"]
        for cell in cells[:2]:
            assert client.execute_interactive(cell, timeout=60)["content"]["status"] == "ok"
        client.execute(cells[2])
        time.sleep(3)
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyboardInterrupt"
        process = manager.provisioner.process
        if restart:
            manager.restart_kernel()
        else:
            manager.shutdown_kernel()
        assert process.returncode == 0
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_no_other_module_lets_tensorflow_call_python() -> None:
    """Other calls than those of `python_calls` could prevent processes from exiting."""
    for package in ("tfrecord_tools", "trainers"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if path.name != "python_calls.py":
                calls = re.findall(
                    r"tf\.(?:numpy_function|py_function|data\.Dataset\.from_generator)", path.read_text()
                )
                assert not calls, path
