"""litdata: images in chunks of a binary format, read by number or as a stream."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import litdata
from litdata.streaming import downloader

from benchmarks.peers import peer, torch_images
from benchmarks.peers.peer import Job, Store


def _sample(raw: bool, item: tuple[Path, int]) -> dict[str, Any]:
    return {"image": peer.content(item[0], raw), "label": item[1]}


def write(folder: Path, raw: bool, out: Path, chunk: str = "64MB") -> None:
    litdata.optimize(
        fn=functools.partial(_sample, raw), inputs=list(peer.labeled(folder)), output_dir=str(out),
        chunk_bytes=chunk, num_workers=peer.WORKERS, start_method="fork", verbose=False,
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


_CHUNK = "4MB"  # The cache must hold several chunks per worker. 4 MB were fastest.


def write_bucket(folder: Path, out: Path) -> None:
    write(folder, False, out, _CHUNK)


class _Streamed(litdata.StreamingDataset):
    """A stream from a bucket, decoded if there is a function that decodes."""

    decode: Callable[[bytes], Any] | None = None

    def __getitem__(self, number: Any) -> tuple[Any, int]:
        sample = super().__getitem__(number)
        return (self.decode(sample["image"]) if self.decode else sample["image"]), sample["label"]


def bucket(url: str, cache: Path, job: Job) -> Callable[[], Iterable[Any]]:
    # No public option lets the client obstore, which is faster than boto3, use a server without TLS.
    options = downloader._OBSTORE_CLIENT_OPTIONS
    downloader._OBSTORE_CLIENT_OPTIONS = {**options, "allow_http": True}
    data = _Streamed(
        url, cache_dir=str(cache), shuffle=True, drop_last=True, max_cache_size=job.cache,
        storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]},
    )  # fmt: skip
    data.decode = torch_images.decoder(False, job) if job.decode else None
    loader = litdata.StreamingDataLoader(
        data, batch_size=job.batch, num_workers=peer.WORKERS, drop_last=True, persistent_workers=True
    )
    return lambda: loader


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
        Store(write, batches, by_number, resumed=resumed, write_bucket=write_bucket, bucket=bucket).rows(),
        {"augmented": "has no augmentation of its own", "": "does not train or predict"},
    )
