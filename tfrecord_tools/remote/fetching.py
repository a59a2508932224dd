"""Fetch records of one split from a bucket into the cache, ahead of the readers if the order is known.

Records that follow each other in a shard are fetched by one request, if the order needs all of them soon. Every record
is checked by its checksums before it is written. If the budget is used up, records that are needed last make room, and
nothing is removed for a record that is needed later (Belady 1966).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

import numpy as np

from tfrecord_tools.errors import UserError
from tfrecord_tools.layout import schema
from tfrecord_tools.remote import eviction
from tfrecord_tools.remote.interface import Object, Store
from tfrecord_tools.remote.part import ABSENT, PRESENT, Part
from tfrecord_tools.remote.plans import NEVER, Plan
from tfrecord_tools.remote.space import Space
from tfrecord_tools.remote.threads import THREADS, ending, pool, start_planner
from tfrecord_tools.remote.traffic import Meter

_log = logging.getLogger(__name__)

_MOST_BYTES = 8 << 20  # Largest request, unless a record is larger.
_LEAST_UNDER_WAY = 4 << 20  # Bytes of planned requests that may always be under way.
_UNDER_WAY = 2.0  # The same in multiples of what arrives during the latency of a request.
_QUEUED = 2 * THREADS  # Planned requests that are waiting or under way.
_FEW = THREADS  # If there are fewer of them, the planner runs. A plan for many records costs little more than for one.
_LEAST_AHEAD = 32 << 20  # Bytes ahead of the readers, if the budget allows.
_AHEAD_SECONDS = 2.0  # The bytes that arrive in this time are fetched ahead.
_AHEAD_SHARE = 0.5  # Largest share of the budget for records that are fetched ahead.
_SOON_SHARE = 1.0  # Neighbors are fetched together if the order needs them before this share of the budget.
_STEP = 64  # At most this number of neighbors of a record are looked at together.
_AT_ONCE = 0.25  # Records in this share of the positions that are looked ahead are needed at once.
_SPARE = 256  # At least this part of the budget is made free at once.
_RECENT = 60  # Seconds. Records that other processes used in this time are removed last.
_SILENT = 60.0  # Seconds after which a plan does not count, if another one is in use.
_RECOUNT = 2.0  # Seconds until the processes that use the same records are counted again.
_TICK = 0.5  # Seconds until the planner looks again, if nobody wakes it up.
_AGAIN = 5  # Attempts to fetch a record that arrived damaged.
_PAUSE = 5.0  # Seconds without planned requests after a failed one.


class Fetcher:
    """Fetches the records of a part. It is used by one process.

    Args:
        store: The store.
        objects: The shards, with the tags of the versions to read.
        part: The records in the cache.
        space: The cache directory.
        meter: Counts what is fetched.
    """

    def __init__(self, store: Store, objects: Sequence[Object], part: Part, space: Space, meter: Meter):
        self._store, self._objects, self._space, self._meter = store, objects, space, meter
        self.part = part
        self._planned = 0
        self._queue: collections.deque[_Request] = collections.deque()
        self._under_way = 0  # Bytes of planned requests.
        self._bad: set[int] = set()
        self._plans: weakref.WeakKeyDictionary[Plan, _Reader] = weakref.WeakKeyDictionary()
        self._current: weakref.ref[Plan] | None = None
        self._failed = 0.0
        self._others, self._counted = 1, 0.0
        self._error: UserError | None = None
        self._full = False
        self._known_plan: weakref.ref[Plan] | None = None
        self._known = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._last_end = -1
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._planner: threading.Thread | None = None
        with space.locked():
            space.members.add(self)
        self._mean = part.whole_cost / max(1, len(part.flags))

    # --- Readers ----------------------------------------------------------------------------------------

    def need(self, rows: np.ndarray) -> dict[int, memoryview]:
        """Return when all records i64[k] are in the cache, except those in the result: row -> frame.

        Raises:
            UserError: The store does not give the records.
        """
        rows = np.unique(rows)
        absent = rows[self.part.flags[rows] != PRESENT]
        self._meter.add(found=len(rows) - len(absent), missed=len(absent))
        if not len(absent):
            return {}
        began = time.monotonic()
        given: dict[int, memoryview] = {}
        checked = began
        while len(absent):
            flags = self.part.flags[absent]
            free = absent[flags == ABSENT]
            if self._error is not None and self._failed > began:
                raise self._error  # A planned request has used up the patience.
            if len(free):
                given |= self._fetch_now(free)
            absent = np.array([row for row in absent.tolist() if row not in given], np.int64)
            absent = absent[self.part.flags[absent] != PRESENT]
            if len(absent) and not len(free):
                time.sleep(0.001 if time.monotonic() - began < 0.1 else 0.005)
                if time.monotonic() - checked > 0.25:
                    checked = time.monotonic()
                    self.part.rescue(absent)
        self._meter.add(waited=time.monotonic() - began)
        return given

    def probe(self) -> None:
        """Read the first records, to measure latency and bandwidth: one, and then up to four requests at once."""
        rows = np.arange(min(int(4 * _MOST_BYTES / self._mean) + 1, len(self.part.flags)))
        for part in (rows[:1], rows[1:]):
            if len(part):
                self.need(part)

    def expect(self, rows: np.ndarray) -> None:
        """Begin to fetch records i64[k] that will be needed at once. Return without waiting."""
        rows = np.unique(rows)
        absent = rows[self.part.flags[rows] == ABSENT]
        if len(absent):
            for run in self._runs(self._claim(self._with_neighbors(absent), absent, urgent=True)):
                self._submit(_Request(run, store=True), urgent=False)

    def drop_damaged(self, row: int) -> bool:
        """Drop a record with a damaged copy. Return False if its bytes in the store are damaged, too."""
        if row in self._bad:
            return False
        self.part.discard(np.array([row]))
        return True

    def _fetch_now(self, rows: np.ndarray) -> dict[int, memoryview]:
        claimed = self._claim(self._with_neighbors(rows), rows, urgent=True)
        requests = [_Request(run, store=True) for run in self._runs(claimed)]
        missing = np.setdiff1d(rows, claimed)
        missing = missing[self.part.flags[missing] == ABSENT]  # There is no room for them.
        requests += [_Request(run, store=False) for run in self._runs(missing)]
        for request in requests:
            self._submit(request, urgent=True)
        given: dict[int, memoryview] = {}
        for request in requests:
            request.done.wait()
        for request in requests:
            if request.error is not None:
                raise request.error
            given |= request.frames
        return given

    # --- Plans ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def following(self, plan: Plan, position: int) -> Iterator[None]:
        """Fetch ahead of a position of a plan. In the block, the records at the position are read."""
        with self._lock:
            reader = self._plans.setdefault(plan, _Reader())
            self._current = weakref.ref(plan)
            if self._planner is None:
                of, wake = weakref.ref(self), self._wake
                self._planner = start_planner(lambda: _plan_ahead(of, wake), wake)
        reader.enter(position)
        self._wake.set()
        try:
            yield
        finally:
            reader.leave(position)

    def _positions(self) -> list[tuple[Plan, int]]:
        """Return the plans that are in use, with their positions."""
        with self._lock:
            readers = list(self._plans.items())
        latest = max((reader.heard for _, reader in readers), default=0.0)
        return [(plan, reader.position) for plan, reader in readers if reader.heard > latest - _SILENT]

    def _distance(self, rows: np.ndarray) -> np.ndarray:
        """Return how many records are read before each of the rows i64[k]. Unknown: long ago used is far."""
        distance = np.full(len(rows), NEVER)
        for plan, position in self._positions():
            np.minimum(distance, plan.next_use(rows, position) - position, out=distance)
        return self._known_or_idle(rows, distance)

    def _known_or_idle(self, rows: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return distances i64[k] in which the time of the last use replaces `NEVER`."""
        unknown = distance >= NEVER // 2
        if unknown.any():
            idle = self.part.idle(rows[unknown])
            distance[unknown] = np.where(idle > _RECENT, NEVER + idle, _RECENT + idle)
        return distance

    def plan_once(self) -> None:
        """Request what the current plan needs soon."""
        plan = self._current() if self._current else None
        now = time.monotonic()
        if plan is None or self._full or now - self._failed < _PAUSE or self._planned >= _QUEUED:
            return
        position = self._plans[plan].position
        rows = plan.upcoming(position, self._ahead_positions())
        missing = rows[self.part.flags[rows] == ABSENT]
        if not len(missing):
            return
        first = np.sort(np.unique(missing, return_index=True)[1])
        missing = missing[first][: 4 * THREADS]
        claimed = self._claim(self._with_neighbors(missing), missing, urgent=False)
        for run in self._runs(claimed):
            self._submit(_Request(run, store=True), urgent=False)

    def _ahead_positions(self) -> int:
        ahead = max(_LEAST_AHEAD, self._meter.bandwidth * _AHEAD_SECONDS)
        return int(min(ahead, _AHEAD_SHARE / self._users() * self._space.budget) / self._mean) + 1

    def _users(self) -> int:
        """Return the number of processes that use the same records. Each of them fetches ahead."""
        if time.monotonic() > self._counted + _RECOUNT:
            self._others, self._counted = self.part.users, time.monotonic()
        return max(1, self._others)

    # --- What is fetched --------------------------------------------------------------------------------

    def _with_neighbors(self, rows: np.ndarray) -> np.ndarray:
        """Add absent records on both sides that are needed soon, so that one request fetches them."""
        part = self.part
        most = max(1, int(_MOST_BYTES / self._mean))
        plans = bool(self._positions())
        soon = _SOON_SHARE * self._space.budget / self._mean
        sequential = not plans and self._is_sequential(rows)
        if not plans and not sequential:
            return rows
        wanted, rows = [rows], np.unique(rows)
        last, first = np.append(np.diff(rows) != 1, True), np.append(True, np.diff(rows) != 1)
        edges = np.concatenate([rows[last], rows[first & plans]])
        sides = np.repeat([1, -1], [np.count_nonzero(last), np.count_nonzero(first & plans)])
        reach, step = 0, 1
        while len(edges) and reach < most:  # Most edges of a shuffled order end at the first step.
            near = edges[:, None] + sides[:, None] * np.arange(reach + 1, reach + step + 1)
            inside = (near >= 0) & (near < len(part.flags))
            near = np.where(inside, near, edges[:, None])
            fits = inside & (part.flags[near] == ABSENT) & (part.shards(near) == part.shards(edges)[:, None])
            if plans and fits.any():  # Edges have common neighbors: the distance of each is computed once.
                unique, places = np.unique(near[fits], return_inverse=True)
                fits[fits] = (self._distance(unique) <= soon)[places]
            fits = np.logical_and.accumulate(fits, axis=1)
            wanted.append(near[fits])
            edges, sides = edges[fits[:, -1]], sides[fits[:, -1]]
            reach, step = reach + step, min(8 * step, _STEP)
        return np.unique(np.concatenate(wanted))

    def _is_sequential(self, rows: np.ndarray) -> bool:
        """Return whether readers without a plan seem to go forward through the shards."""
        first, last = int(rows[0]), int(rows[-1])
        follows = first in (self._last_end, self._last_end + 1) or (first > 0 and self.part.flags[first - 1] == PRESENT)
        self._last_end = last + 1
        return last - first < 2 * len(rows) and follows

    def _runs(self, rows: np.ndarray) -> list[np.ndarray]:
        """Group rows i64[k] into runs of neighbors, each small enough for one request.

        The run with the first of the given rows comes first, and so on.
        """
        if not len(rows):
            return []
        by_row = np.argsort(rows)
        filled = np.cumsum(self.part.frames(rows[by_row]).sizes) // _MOST_BYTES
        full = np.flatnonzero(filled[1:] != filled[:-1]) + 1
        runs = np.split(by_row, np.union1d(self.part.breaks(rows[by_row]), full))
        return [rows[run] for run in sorted(runs, key=np.min)]

    def _claim(self, rows: np.ndarray, needed: np.ndarray, urgent: bool) -> np.ndarray:
        """Claim absent rows for which there is room, and make room. Return the claimed rows.

        Args:
            rows: The rows to fetch.
            needed: Those that are needed first, in the order of their use.
            urgent: A reader waits for the needed rows.
        """
        order = np.concatenate([needed, np.setdiff1d(rows, needed)])
        distance = self._distance(order) if self._plans else np.zeros(len(order), np.int64)
        if urgent:
            distance[: len(needed)] = 0
        by_use = np.argsort(distance, kind="stable")
        order, distance = order[by_use], distance[by_use]
        with self._space.locked():
            absent = self.part.flags[order] == ABSENT
            order, distance = order[absent], distance[absent]
            costs = np.cumsum(self.part.cost(order))
            if len(costs) and costs[-1] > self._space.free():
                self._make_room(int(costs[-1]), distance, costs)
            fits = costs <= self._space.free()
            if not urgent and not fits.all():
                fits &= self._worth_a_request(order, fits, distance)
            return self.part.claim(order[fits])

    def _worth_a_request(self, rows: np.ndarray, fits: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return which rows are needed at once, or are in a run that fits at least by half, bool[k].

        A run is a group of neighbors. If there is little room, the others wait. Otherwise, each record of a block would
        be a request of its own.
        """
        by_row = np.argsort(rows)
        runs = np.empty(len(rows), np.int64)
        runs[by_row] = np.searchsorted(self.part.breaks(rows[by_row]), np.arange(len(rows)), "right")
        fitting = np.bincount(runs, fits) >= 0.5 * np.bincount(runs)
        return fitting[runs] | (distance < _AT_ONCE * self._ahead_positions())

    def _make_room(self, need: int, distance: np.ndarray, costs: np.ndarray) -> None:
        """Remove records that are needed later than those to fetch. The lock is held.

        Args:
            need: Bytes of all records to fetch.
            distance: i64[k], when each is needed, in ascending order.
            costs: i64[k], cumulative bytes.
        """
        self._space.remove_idle(need)
        free = self._space.free()
        if free >= need:
            return
        members: list[Fetcher] = list(self._space.members)
        present = [(number, *member.present()) for number, member in enumerate(members)]
        of = np.concatenate([np.full(len(rows), number) for number, rows, _ in present])
        rows, victims = (np.concatenate(arrays) for arrays in list(zip(*present))[1:])
        if not len(rows):
            return
        sizes = np.concatenate([member.part.cost(rows) for member, (_, rows, _) in zip(members, present)])
        removed = eviction.choose(distance, costs - free, victims, sizes, self._space.budget // _SPARE)
        for number, member in enumerate(members):
            member.part.evict(rows[removed[of[removed] == number]])

    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all rows in the cache, and how many records are read before each of them.

        The plans of other processes are not known. A record that was fetched and that nobody has read stays: 0.
        """
        rows = self.part.rows_with(PRESENT)
        distance = self._distance_of_present(rows)
        unread = np.flatnonzero(self.part.unread(rows))
        distance[unread[self.part.idle(rows[unread]) <= _RECENT]] = 0
        return rows, distance

    def _distance_of_present(self, rows: np.ndarray) -> np.ndarray:
        """Return `_distance`. For a single plan, positions from the last call are used again."""
        positions = self._positions()
        if len(positions) != 1:
            return self._distance(rows)
        plan, position = positions[0]
        known_rows, known = self._known
        if self._known_plan is None or self._known_plan() is not plan:
            known_rows = known = np.zeros(0, np.int64)
        places = np.minimum(np.searchsorted(known_rows, rows), max(len(known_rows) - 1, 0))
        next_use = np.full(len(rows), -1)
        if len(known_rows):
            same = known_rows[places] == rows
            next_use[same] = known[places[same]]
        passed = (next_use < position) | (next_use >= NEVER // 2)
        next_use[passed] = plan.next_use(rows[passed], position)
        self._known_plan, self._known = weakref.ref(plan), (rows, next_use)
        return self._known_or_idle(rows, next_use - position)

    # --- Requests ---------------------------------------------------------------------------------------

    def _submit(self, request: _Request, urgent: bool) -> None:
        request.planned = not urgent
        if urgent:
            pool().put(True, lambda: self._run(request))
            return
        request.size = int(self.part.frames(request.rows).sizes.sum())
        with self._lock:
            self._planned += 1
            self._queue.append(request)
        self._start()

    def _start(self) -> None:
        """Start planned requests in their order, as many as the connection needs to be busy.

        More requests would not be faster, and the records that are needed first would arrive with all others.
        """
        limit = max(_LEAST_UNDER_WAY, _UNDER_WAY * self._meter.fastest * self._meter.latency)
        with self._lock:
            while self._queue and (not self._under_way or self._under_way + self._queue[0].size <= limit):
                request = self._queue.popleft()
                self._under_way += request.size
                pool().put(False, functools.partial(self._run, request))

    def _run(self, request: _Request) -> None:
        try:
            if ending.is_set():
                raise UserError(f"{self._store.url}: no record can be read while the process ends. Read it earlier.")
            self._perform(request)
        except UserError as error:
            request.error = error
        except Exception as error:  # noqa: BLE001  Whoever waits for the request raises it.
            request.error = UserError(f"{self._store.url}: {type(error).__name__}: {error}")
        if request.error is not None:
            self._error, self._failed = request.error, time.monotonic()
            if request.store:
                self.part.release(request.rows)
        with self._lock:
            self._planned -= request.planned
            self._under_way -= request.size
            planned = self._planned
        request.done.set()
        self._start()
        if planned < _FEW:
            self._wake.set()

    def _perform(self, request: _Request) -> None:
        rows, part = request.rows, self.part
        places = part.frames(rows)
        shard, start = int(places.shards[0]), int(places.offsets[0])
        ends = np.cumsum(places.sizes).tolist()
        data = self._get(shard, start, start + ends[-1])
        frames = {row: data[begin:end] for row, begin, end in zip(rows.tolist(), [0, *ends], ends)}
        damaged = [row for row, frame in frames.items() if not _is_valid(frame)]
        for row in damaged:
            frames[row] = self._fetched_again(row)
        if damaged:
            data = memoryview(b"".join(frames.values()))
        if not request.planned:
            request.frames = frames
        if request.store:
            try:
                part.write(rows, data)
            except OSError as error:
                self._disk_failed(error)
                part.release(rows)

    def _fetched_again(self, row: int) -> memoryview:
        """Fetch a record that arrived damaged. If it is damaged each time, the object in the store is."""
        places = self.part.frames(np.array([row]))
        shard, size, begin = (int(values[0]) for values in places)
        for attempt in range(_AGAIN):
            self._meter.add(retried=1)
            frame = self._get(shard, begin, begin + size)
            if _is_valid(frame):
                return frame
            time.sleep(0.05 * attempt)
        self._bad.add(row)
        return frame

    def _get(self, shard: int, start: int, end: int) -> memoryview:
        found = self._objects[shard]
        began, count = self._meter.began(), 0
        try:
            data = self._store.get(found.path, start, end, found.tag)
            count = len(data)
        finally:
            self._meter.ended(began, count)
        self._meter.add(bytes=count, requests=1)
        return data

    def _disk_failed(self, error: OSError) -> None:
        """Go on without more space: readers use what they fetch from memory."""
        self._space.shrink()
        with self._lock:
            first, self._full = not self._full, True
        if first:
            _log.warning(
                f"--cache_dir={self._space.root}: {error.strerror or error}. Records that do not fit are fetched again"
                " when they are needed. Free some space, or pass a smaller --cache_bytes or another --cache_dir."
            )


def _is_valid(frame: memoryview) -> bool:
    return schema.content(frame) is not None


class _Reader:
    """The threads that read by a plan.

    Attributes:
        position: The lowest position that is read now, or that was read last.
        heard: When a thread began to read.
    """

    def __init__(self) -> None:
        self._reading: list[int] = []
        self._lock = threading.Lock()
        self.position, self.heard = 0, 0.0

    def enter(self, position: int) -> None:
        with self._lock:
            self._reading.append(position)
            self.position, self.heard = min(self._reading), time.monotonic()

    def leave(self, position: int) -> None:
        with self._lock:
            self._reading.remove(position)
            self.position = min(self._reading, default=self.position)


class _Request:
    """A range of a shard to fetch.

    Attributes:
        rows: Neighboring rows.
        size: Bytes, if the request was planned, else 0.
        store: Whether this process has claimed the rows, so that they are written to the cache.
        frames: The result, unless the request was planned: row -> frame.
        error: Why the request failed.
    """

    def __init__(self, rows: np.ndarray, store: bool):
        self.rows, self.store, self.planned, self.size = rows, store, False, 0
        self.frames: dict[int, memoryview] = {}
        self.error: UserError | None = None
        self.done = threading.Event()


def _plan_ahead(of: weakref.ref[Fetcher], wake: threading.Event) -> None:
    """Run `plan_once` whenever something has changed, until nobody uses the fetcher any more."""
    while True:
        wake.wait(_TICK)
        wake.clear()
        fetcher = of()
        if fetcher is None or ending.is_set():
            return
        try:
            fetcher.plan_once()
        except Exception as error:  # noqa: BLE001  Readers fetch by themselves, and get the error.
            _log.debug("planning failed: %r", error)
        del fetcher
