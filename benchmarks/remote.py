"""Measure how long a training waits for a dataset in a bucket that is ten times as large as the cache.

    python -m benchmarks.remote --photos=DIR

A server on this machine plays S3, with a delay of 20 ms per request and with 50 or 200 MB/s. The photographs are
repeated until there are 20,020. A reader takes batches at the pace of a training. Each order has an epoch that fills
the cache, and an epoch that is measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import common
from tfrecord_tools.base import command, tabular
from tfrecord_tools.convert import ConvertConfig, convert
from tfrecord_tools.order import Blocks, Order, Shuffled
from tfrecord_tools.records import Records, open_dataset
from tfrecord_tools.remote.traffic import Traffic

_BUCKET = "bucket"
_TIMES = 10  # Copies of each photograph.
_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A measured epoch.

    Attributes:
        seconds: Length of the epoch.
        reading: Share of it in which the reader read records, with the wait for those that were not there.
        waited: Share of it in which the reader waited for records that were not there.
        traffic: Bytes and requests.
    """

    seconds: float
    reading: float
    waited: float
    traffic: Traffic


@contextlib.contextmanager
def store(root: Path, latency_ms: float, mb_per_s: float) -> Iterator[None]:
    """Run the server, and set the environment so that s3:// URLs lead to it."""
    arguments = [str(root), f"--latency_ms={latency_ms}", f"--mb_per_s={mb_per_s}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.slow_store", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    os.environ |= {
        "AWS_ENDPOINT_URL": server.stdout.readline().strip(),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield
    finally:
        server.kill()
        server.wait()


def read_epoch(records: Records, order: Order, epoch: int, pace: float) -> Epoch:
    """Read an epoch with at most `pace` images/s."""
    assert records.remote is not None
    before = records.remote.traffic
    reading, read = records.plan(order), 0.0
    began = time.perf_counter()
    for step, position in enumerate(range(epoch * len(records), (epoch + 1) * len(records), _BATCH)):
        time.sleep(max(0.0, began + read + step * _BATCH / pace - time.perf_counter()))
        start = time.perf_counter()
        with reading(position):
            records.serialized_batch(order[position + np.arange(_BATCH)])
        read += time.perf_counter() - start
    seconds = time.perf_counter() - began
    traffic = records.remote.traffic - before
    return Epoch(seconds, read / seconds, traffic.waited / seconds, traffic)


def measure(out: Path, cache_dir: Path, share: float, order_name: str, block: int, pace: float) -> tuple[str, ...]:
    """Read two epochs of the copy of a dataset in the bucket. Return the cells of the second one."""
    size = sum(path.stat().st_size for path in out.glob("*.tfrecord-*"))
    data = open_dataset(f"s3://{_BUCKET}/{out.name}", cache_dir=cache_dir, cache_bytes=int(share * size))
    records = data.records(*data.splits)
    blocks = order_name == "Blocks"
    order = Blocks(len(records), 0, block) if blocks else Shuffled(len(records), 0)
    read_epoch(records, order, 0, pace)
    epoch = read_epoch(records, order, 1, pace)
    return (
        f"Blocks(block={block})" if blocks else order_name,
        f"{epoch.waited:.1%}",
        f"{epoch.reading:.1%}",
        f"{len(records) / epoch.seconds:,.0f}",
        f"{epoch.traffic.bytes / size:.3f}",
        f"{epoch.traffic.requests:,}",
        f"{epoch.traffic.hit_rate:.1%}",
    )


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    rows: list[tuple[str, ...]] = [
        ("MB/s", "order", "waited", "reading", "images/s", "bytes/data", "requests", "in time")
    ]
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        common.copy_photos(Path(given.photos), root / "photos", _TIMES)
        out = root / "store" / _BUCKET / "pets"
        out.parent.mkdir(parents=True)
        convert(ConvertConfig(src=str(root / "photos"), out=str(out)), log=lambda line: None)
        for mb_per_s in map(float, given.mb_per_s):
            with store(root / "store", given.latency_ms, mb_per_s):
                for name in ("Blocks", "Shuffled"):
                    cache_dir = root / f"{name}{mb_per_s}"
                    cells = measure(out, cache_dir, given.cache, name, given.block, given.pace)
                    rows.append((f"{mb_per_s:g}", *cells))
    for line in tabular.aligned(rows, left=[1]):
        print(line)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, as split/class/image.", required=True)
    flags.DEFINE_list("mb_per_s", ["50", "200"], "Bandwidths to measure, in MB/s.")
    flags.DEFINE_float("latency_ms", 20, "Delay of each request, in milliseconds.")
    flags.DEFINE_float("cache", 0.1, "Size of the cache, as a share of the data.")
    flags.DEFINE_float("pace", 1000, "Images/s that the training takes.")
    flags.DEFINE_integer("block", 64, "Records per block of order.Blocks.")
    command.run(main)
