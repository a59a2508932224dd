"""Compare reading from a bucket with other projects, with a cache that is smaller than the data.

    python -m benchmarks.remote_peers --photos=DIR

A server on this machine plays S3, with a delay per request and a limited bandwidth (`benchmarks.slow_store`). Each
measurement is a process of its own, which reads an epoch to fill the cache, and measures the next one. In each round,
all tools take turns. The table has medians, and the ratio of this package to each tool. `make .venv-peers/installed
.venv-streaming/installed` installs the other projects.

Each tool has the settings with which it was fastest here: the size of its files, and the order that its documentation
recommends. `order.Blocks` and the blocks of MosaicML Streaming mix 640 images, litdata mixes the images of a file of
4 MB (about 180), and `order.Shuffled` mixes all images. The time of MosaicML Streaming includes waiting for a fault of
its cache (`benchmarks.peers.mosaic_mds`), so the ratio to it is an upper limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import common, remote
from benchmarks.side_by_side import contenders, machine
from benchmarks.side_by_side.contenders import OURS, PEERS, Contender
from tfrecord_tools.base import command
from tfrecord_tools.errors import UserError

_BUCKET = "bucket"
_TIMES = 10  # Copies of each photograph.
_ATTEMPTS = 3  # MosaicML Streaming often ends with an IndexError if the cache is small.
_HEAD = "| MB/s | what | tool | images/s | ratio (lowest to highest) | bytes / data | requests | date, load |"
Figures = Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """A line in the file of results.

    Attributes:
        what: "bytes" or "decoded".
        tool: Name of the tool.
        settings: Bandwidth, delay and size of the cache.
        round: Number of the round in which the tools took turns. All rounds of a directory have different numbers.
        when: Date and load of the machine.
        figures: The results.
    """

    what: str
    tool: str
    settings: Mapping[str, float]
    round: int
    when: str
    figures: Figures


def sides() -> list[Contender]:
    """Return the tools to compare. The first one is this package with its order for buckets."""
    ours = [
        dataclasses.replace(OURS, name=name, title=f"this package, `{title}`", rows={"bucket": f"bucket_{name}"})
        for name, title in (("blocks", "Blocks(block=40)"), ("shuffled", "Shuffled"))
    ]
    peers = [
        dataclasses.replace(peer, rows={"bucket": "bucket"}) for peer in PEERS if peer.name in ("mosaic", "litdata")
    ]
    return [*ours, *(peer for peer in peers if peer.version())]


class Bench:
    """Photographs in a bucket, written by each tool in its own format.

    Attributes:
        store: Directory with the bucket.
    """

    def __init__(self, root: Path, given: Any):
        self.store, self._given = root / "store", given
        self._photos, self._results = root / "photos", root / "results.jsonl"
        self._sizes: dict[str, int] = {}

    def write(self, tools: Sequence[Contender]) -> None:
        """Write the data of all tools, unless they are there.

        Raises:
            UserError: A tool failed.
        """
        if not self._photos.exists():
            for split in sorted(Path(self._given.photos).iterdir()):
                common.copy_photos(split, self._photos / "train", _TIMES)  # The other tools read one split.
        for tool in tools:
            if tool.script not in self._sizes:
                outcome = contenders.run(tool, "bucket_write", self._arguments(tool, decode=False))
                if outcome.failed:
                    raise UserError(f"{tool.title}: {outcome.failed}")
                self._sizes[tool.script] = int(outcome.figures["bytes"])

    def measure(self, tool: Contender, what: str, mb_per_s: str, number: int) -> None:
        """Read two epochs, and note the figures of the second one as those of round `number`."""
        for _ in range(_ATTEMPTS):
            outcome = contenders.run(tool, tool.rows["bucket"], self._arguments(tool, what == "decoded"))
            if not outcome.failed:
                break
            command.say(f"{tool.title} failed: {outcome.failed}")
        else:
            return
        share = outcome.figures["fetched_sent"] / self._sizes[tool.script]
        line = Measurement(
            what=what,
            tool=tool.name,
            settings=self._settings(mb_per_s),
            round=number,
            when=f"{datetime.date.today()}, {machine.load()}",
            figures={**outcome.figures, "share": share},
        )
        with self._results.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(line)) + "\n")

    def results(self, tool: Contender, what: str, mb_per_s: str) -> dict[int, Measurement]:
        """Return round -> measurement, also of earlier runs in the same directory with the same settings."""
        settings = self._settings(mb_per_s)
        return {
            line.round: line
            for line in self._lines()
            if (line.what, line.tool, line.settings) == (what, tool.name, settings)
        }

    def next_round(self) -> int:
        """Return a number that no round has so far."""
        return max((line.round for line in self._lines()), default=-1) + 1

    def _lines(self) -> list[Measurement]:
        texts = self._results.read_text().splitlines() if self._results.exists() else []
        try:
            return [Measurement(**json.loads(text)) for text in texts]
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self._results}: has lines without settings and rounds, or damaged lines. Delete the file."
            ) from error

    def _settings(self, mb_per_s: str) -> dict[str, float]:
        return {"mb_per_s": float(mb_per_s), "latency_ms": self._given.latency_ms, "cache": self._given.cache}

    def _arguments(self, tool: Contender, decode: bool) -> Mapping[str, object]:
        size = self._sizes.get(tool.script, 0)
        return {
            "photos": self._photos, "work": self.store / _BUCKET / tool.script, "size": 150, "batch": 20,
            "cache": int(self._given.cache * size), "decode": int(decode),
        }  # fmt: skip


def lines(bench: Bench, tools: Sequence[Contender], what: str, mb_per_s: str) -> Iterator[str]:
    """Yield a line of the table for each tool with figures."""
    ours = bench.results(tools[0], what, mb_per_s)
    for tool in tools:
        if found := bench.results(tool, what, mb_per_s):
            rate, share, requests = (
                statistics.median(line.figures[name] for line in found.values())
                for name in ("images_per_second", "share", "fetched_requests")
            )
            ratio = "" if tool is tools[0] else _ratio(ours, found)
            yield (
                f"| {mb_per_s} | {what} | {tool.title} | {rate:,.0f} | {ratio} | {share:.3f} | {requests:,.0f} |"
                f" {found[max(found)].when} |"
            )


def _ratio(ours: Mapping[int, Measurement], others: Mapping[int, Measurement]) -> str:
    """Return the ratios of the speeds in the rounds that both have. "": there is no such round."""
    speed = "images_per_second"
    ratios = [line.figures[speed] / others[number].figures[speed] for number, line in ours.items() if number in others]
    if len(ratios) < 2:
        return "".join(f"{ratio:.2f}, one round" for ratio in ratios)
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main(argv: Sequence[str]) -> None:
    command.no_arguments(argv)
    given = flags.FLAGS
    tools = [tool for tool in sides() if not given.tools or tool.name in given.tools]
    command.say(machine.description({tool.title: tool.version() for tool in tools if tool.environment}))
    with contextlib.nullcontext(given.work) if given.work else tempfile.TemporaryDirectory() as work:
        bench = Bench(Path(work).resolve(), given)
        bench.write(tools)
        command.say(_HEAD)
        for what in given.what:
            for mb_per_s in given.mb_per_s:
                with remote.store(bench.store, given.latency_ms, float(mb_per_s)):
                    first = bench.next_round()
                    for number in range(first, first + given.rounds):
                        for tool in tools if number % 2 == 0 else tools[::-1]:
                            bench.measure(tool, what, mb_per_s, number)
                for line in lines(bench, sides(), what, mb_per_s):
                    command.say(line)


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Directory of photographs, as split/class/image.", required=True)
    flags.DEFINE_list("mb_per_s", ["50", "200"], "Bandwidths to measure, in MB/s.")
    flags.DEFINE_list("what", ["bytes", "decoded"], "Results of the tools: bytes, or decoded images of 150 pixels.")
    flags.DEFINE_list("tools", [], "Tools to measure: blocks, shuffled, mosaic, litdata. Default: all.")
    flags.DEFINE_float("latency_ms", 20, "Delay of each request, in milliseconds.")
    flags.DEFINE_float("cache", 0.1, "Size of the cache, as a share of the data.")
    flags.DEFINE_integer("rounds", 3, "Number of measurements; medians are printed.")
    flags.DEFINE_string(
        "work", None, "Directory for the data of the tools and the figures, to go on later. Default: a temporary one."
    )
    command.run(main)
