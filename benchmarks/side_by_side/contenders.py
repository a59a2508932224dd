"""The sides of the comparison: this package, other projects and limits, with their scripts."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_PROBE = (
    "import importlib.metadata as m, importlib.util as u, json, platform, sys\n"
    "module, package = sys.argv[1:]\n"
    "if u.find_spec(module) is None: sys.exit(1)\n"
    "print(json.dumps([m.version(package), platform.python_version()]))"
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: Short name, as in --peers.
        title: Name in the table.
        script: Module of `benchmarks.peers`.
        rows: Row of the table -> row of the script. Other rows do not concern this contender.
        environment: Directory of the virtual environment, such as ".venv-peers". "": this interpreter.
        module: Module that must be installed. "": none.
        package: Name of the package that has the module.
    """

    name: str
    title: str
    script: str
    rows: Mapping[str, str] = dataclasses.field(hash=False)
    environment: str = ""
    module: str = ""
    package: str = ""

    @property
    def python(self) -> Path:
        return REPOSITORY / self.environment / "bin/python" if self.environment else Path(sys.executable)

    def version(self) -> str:
        """Return the version of the package and of its Python, or "" if the package is not installed."""
        if not self.python.exists():
            return ""
        if not self.module:
            return "this version"
        words = [str(self.python), "-c", _PROBE, self.module, self.package or self.module]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            return ""
        version, python = json.loads(done.stdout)
        return f"{version}, Python {python}" if self.environment else str(version)

    @property
    def missing(self) -> str:
        """The command that installs the package."""
        return f"make {self.environment or '.venv'}/installed"


_NAMES = (
    "convert", "plain", "augmented", "raw", "random", "sequence", "first", "resume", "features", "predict",
    "predict_one",
)  # fmt: skip
_ROWS = {name: name for name in _NAMES} | {"jpeg": "plain"}  # The same with other photographs.
_PEERS, _STREAMING, _FFCV = ".venv-peers", ".venv-streaming", ".venv-ffcv"

OURS = Contender("this_package", "this package", "this_package", _ROWS)
VARIANTS = (
    OURS,
    Contender("header", "this package, `convert --verify=header`", "this_package", {"convert": "convert_header"}),
    Contender(
        "memory",
        "this package, decoded images in memory",
        "this_package",
        {"plain": "memory", "augmented": "memory_augmented"},
    ),
    Contender(
        "numpy",
        "this package, a loop over `Records` without TensorFlow",
        "this_package",
        {"first": "first_numpy", "resume": "resume_numpy"},
    ),
)

PEERS = (
    Contender("tfds", "TensorFlow Datasets", "tfds", _ROWS, "", "tensorflow_datasets", "tensorflow-datasets"),
    Contender(
        "keras_directory", "`image_dataset_from_directory`, Keras's layers, `Model.predict`", "keras_directory",
        _ROWS, "", "keras",
    ),
    Contender(
        "image_data_generator", "`ImageDataGenerator` (reference recipe)", "image_data_generator", _ROWS, "", "keras"
    ),
    Contender("torchvision", "torchvision v2", "torchvision_v2", _ROWS, _PEERS, "torchvision"),
    Contender("webdataset", "webdataset", "webdataset_tar", _ROWS, _PEERS, "webdataset"),
    Contender("hf_datasets", "Hugging Face datasets", "hf_datasets", _ROWS, _PEERS, "datasets"),
    Contender("litdata", "litdata", "litdata_stream", _ROWS, _PEERS, "litdata"),
    Contender("grain", "Grain with ArrayRecord", "grain_array_record", _ROWS, _PEERS, "grain"),
    Contender("mosaic", "MosaicML Streaming", "mosaic_mds", _ROWS, _STREAMING, "streaming", "mosaicml-streaming"),
    Contender("ffcv", "FFCV", "ffcv_beton", _ROWS, _FFCV, "ffcv"),
)  # fmt: skip

LIMITS = tuple(
    Contender(script_row, f"limit: {title}", "limits", dict.fromkeys(rows, script_row))
    for script_row, title, rows in (
        ("verifying", "verifying the JPEGs, one process per processor", ("convert",)),
        ("disk", "writing the bytes to one file, with fsync", ("convert",)),
        ("decoding", "decoding alone, one thread per processor", ("plain", "jpeg", "predict")),
        ("one_core", "libjpeg-turbo on one core, full size", ("plain", "jpeg")),
        ("copying", "copying the pixels (memcpy)", ("plain", "raw")),
        ("files", "open, read and close one file after the other", ("random",)),
        ("network", "the network alone, a batch in memory", ("features",)),
        ("model", "the model alone, a batch in memory", ("predict",)),
        ("in_turn", "decoding and the model in turn, not at the same time", ("predict",)),
        ("one_call", "import Keras, load the model, one call", ("predict_one",)),
    )
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The answer of one measurement: figures by name, or why there are none.

    Attributes:
        figures: Such as {"images_per_second": 1234.5}.
        cannot: Why the contender cannot do it.
        failed: The last line of the error.
    """

    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cannot: str = ""
    failed: str = ""


def run(contender: Contender, row: str, arguments: Mapping[str, object], timeout: float = 900) -> Outcome:
    """Measure one row in a process of its own.

    Args:
        contender: The side to measure.
        row: Row of the contender's script.
        arguments: Further arguments of the script.
        timeout: Seconds after which the measurement counts as failed.
    """
    words = [str(contender.python), "-m", f"benchmarks.peers.{contender.script}", f"--row={row}"]
    words += [f"--{name}={value}" for name, value in arguments.items()]
    words.append(f"--started={time.time()}")
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Outcome(failed=f"took more than {timeout:.0f} s")
    return answer(done.returncode, done.stdout, done.stderr)


def answer(code: int, out: str, err: str) -> Outcome:
    """Read the JSON line that a script printed last."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if code or not lines:
        reasons = [line for line in err.splitlines() if line.strip()] or [f"exit code {code} without a message"]
        return Outcome(failed=reasons[-1].strip())
    found = json.loads(lines[-1])
    return Outcome(cannot=found["cannot"]) if "cannot" in found else Outcome(figures=found)
