"""MosaicML Streaming: images in MDS shards, read by number or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        Store(write, batches, by_number, resumed=resumed).rows(),
        {"augmented": "has no augmentation of its own", "": "does not train or predict"},
    )
