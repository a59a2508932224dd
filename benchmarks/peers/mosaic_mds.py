"""MosaicML Streaming: images in MDS shards, read by number or as a stream."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import streaming

from benchmarks.peers import peer, torch_images
from benchmarks.peers.peer import Job, Store


def write(folder: Path, raw: bool, out: Path) -> None:
    with streaming.MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}, hashes=["sha1"]) as writer:
        for _, data, label in peer.items(folder, raw):
            writer.write({"image": data, "label": label})


class _Decoded(streaming.StreamingDataset):
    """A stream of decoded images and labels."""

    def __init__(self, directory: Path, raw: bool, job: Job):
        super().__init__(local=str(directory), shuffle=True, batch_size=job.batch)
        self._decode = torch_images.decoder(raw, job)

    def __getitem__(self, number: Any) -> tuple[Any, int]:
        sample = super().__getitem__(number)
        return self._decode(sample["image"]), sample["label"]


def _loader(directory: Path, raw: bool, job: Job) -> streaming.StreamingDataLoader:
    streaming.base.util.clean_stale_shared_memory()
    data = _Decoded(directory, raw, job)
    return streaming.StreamingDataLoader(data, batch_size=job.batch, num_workers=peer.WORKERS, drop_last=True)


def batches(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    loader = _loader(directory, raw, job)
    return peer.endless(lambda: loader)


_SHARD = 4 << 20  # Bytes of a shard in a bucket. The cache must hold at least four shards. 4 MiB were fastest.
_BLOCK = 640  # Samples that are shuffled with each other, as many as this package's `order.Blocks` mixes.

_ATTEMPTS = 2000


def write_bucket(folder: Path, out: Path) -> None:
    columns = {"image": "bytes", "label": "int"}
    with streaming.MDSWriter(out=str(out), columns=columns, hashes=["sha1"], size_limit=_SHARD) as writer:
        for _, data, label in peer.items(folder, raw=False):
            writer.write({"image": data, "label": label})


class _Streamed(streaming.StreamingDataset):
    """A stream from a bucket, decoded if there is a function that decodes."""

    decode: Callable[[bytes], Any] | None = None

    def __getitem__(self, number: Any) -> tuple[Any, int]:
        sample = self._read(number)
        return (self.decode(sample["image"]) if self.decode else sample["image"]), sample["label"]

    def _read(self, number: Any) -> dict[str, Any]:
        """Read a sample. With a small cache, the library sometimes raises an IndexError, so try again.

        The pauses count in the measured time.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(IndexError):
                sample: dict[str, Any] = super().__getitem__(number)
                return sample
            time.sleep(0.001)
        raise IndexError(f"sample {number} cannot be read")


def bucket(url: str, cache: Path, job: Job) -> Callable[[], Iterable[Any]]:
    """Return epochs in the default order, py1e.

    The default block is larger than the data. With a small cache, each shard would be fetched for each of its samples.
    """
    os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
    streaming.base.util.clean_stale_shared_memory()
    data = _Streamed(
        remote=url, local=str(cache / "data"), shuffle=True, batch_size=job.batch, cache_limit=job.cache,
        shuffle_block_size=_BLOCK, num_canonical_nodes=1,
    )  # fmt: skip
    data.decode = torch_images.decoder(False, job) if job.decode else None
    loader = streaming.StreamingDataLoader(
        data, batch_size=job.batch, num_workers=peer.WORKERS, drop_last=True, persistent_workers=True
    )
    return lambda: loader


def by_number(directory: Path) -> tuple[int, Callable[[Sequence[int]], Any]]:
    streaming.base.util.clean_stale_shared_memory()
    data = streaming.StreamingDataset(local=str(directory), shuffle=False, batch_size=1)
    return len(data), lambda numbers: [data[number]["image"] for number in numbers]


def resumed(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    loader = _loader(directory, raw, job)
    epoch, seen = divmod(job.step * job.batch, len(loader) * job.batch)
    state = loader.dataset.state_dict(seen, from_beginning=True)
    loader.load_state_dict({**state, "epoch": epoch})
    return iter(loader)


if __name__ == "__main__":
    peer.main(
        Store(write, batches, by_number, resumed=resumed, write_bucket=write_bucket, bucket=bucket).rows(),
        {"augmented": "has no augmentation of its own", "": "does not train or predict"},
    )
