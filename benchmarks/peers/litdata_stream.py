"""litdata: images in chunks of a binary format, read by number or as a stream."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import litdata

from benchmarks.peers import peer, torch_images
from benchmarks.peers.peer import Job, Store


def _sample(raw: bool, item: tuple[Path, int]) -> dict[str, Any]:
    return {"image": peer.content(item[0], raw), "label": item[1]}


def write(folder: Path, raw: bool, out: Path) -> None:
    litdata.optimize(
        fn=functools.partial(_sample, raw), inputs=list(peer.labeled(folder)), output_dir=str(out),
        chunk_bytes="64MB", num_workers=peer.WORKERS, start_method="fork", verbose=False,
    )  # fmt: skip


class _Decoded(litdata.StreamingDataset):
    """A stream of decoded images and labels."""

    def __init__(self, directory: Path, decode: Callable[[bytes], Any]):
        super().__init__(str(directory), shuffle=True, drop_last=True)
        self._decode_image = decode

    def __getitem__(self, number: Any) -> tuple[Any, int]:
        sample = super().__getitem__(number)
        return self._decode_image(sample["image"]), sample["label"]


def _loader(directory: Path, raw: bool, job: Job) -> litdata.StreamingDataLoader:
    data = _Decoded(directory, torch_images.decoder(raw, job))
    return litdata.StreamingDataLoader(data, batch_size=job.batch, num_workers=peer.WORKERS, drop_last=True)


def batches(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    loader = _loader(directory, raw, job)
    return peer.endless(lambda: loader)


def by_number(directory: Path) -> tuple[int, Callable[[Sequence[int]], Any]]:
    data = litdata.StreamingDataset(str(directory))
    return len(data), lambda numbers: [data[number]["image"] for number in numbers]


def resumed(directory: Path, raw: bool, job: Job) -> Iterator[Any]:
    """Load the state that a first call saved after `job.step` batches."""
    state = job.written(f"state-{job.step}.json", functools.partial(_save_state, directory, raw, job))
    loader = _loader(directory, raw, job)
    loader.load_state_dict(json.loads(state.read_text()))
    return iter(loader)


def _save_state(directory: Path, raw: bool, job: Job, path: Path) -> None:
    loader = _loader(directory, raw, job)
    for _, _batch in zip(range(job.step), peer.endless(lambda: loader)):
        pass
    path.write_text(json.dumps(loader.state_dict()))


if __name__ == "__main__":
    peer.main(
        Store(write, batches, by_number, resumed=resumed).rows(),
        {"augmented": "has no augmentation of its own", "": "does not train or predict"},
    )
