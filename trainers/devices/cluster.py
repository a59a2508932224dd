"""Find the workers (processes) of a training on several machines. Does not need TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from tfrecord_tools.errors import UserError

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers of a training, and the number of this process.

    Attributes:
        worker: Number of this process, from 0. Worker 0 is the chief, which writes all files.
        workers: Number of workers.
        addresses: host:port of each worker.
    """

    worker: int = 0
    workers: int = 1
    addresses: tuple[str, ...] = ()

    @property
    def shard(self) -> tuple[int, int]:
        """(i, n): this process reads slice i, from 0, of the n slices of each batch."""
        return self.worker, self.workers


def is_chief() -> bool:
    """Return whether this process is worker 0, or is not one of several workers."""
    try:
        return from_environment().worker == 0
    except UserError:
        return True


def from_environment() -> Cluster:
    """Read the environment variable TF_CONFIG as TensorFlow does.

    See https://www.tensorflow.org/guide/distributed_training#TF_CONFIG.

    Raises:
        UserError: The variable is not set, or does not describe a worker.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(
            f"--strategy=multi_worker: TF_CONFIG is not set in the environment. Set it to a value such as {_EXAMPLE}."
        )
    try:
        job: dict[str, Any] = json.loads(text)
        addresses, kind, index = job["cluster"], job["task"]["type"], int(job["task"]["index"])
        if not all(isinstance(hosts, list) for hosts in addresses.values()):
            raise TypeError
        names = [(role, i) for role in ("chief", "worker") for i in range(len(addresses.get(role, ())))]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"TF_CONFIG={text}: must be JSON such as {_EXAMPLE}.") from error
    if (kind, index) not in names or set(addresses) - {"chief", "worker"} or len(addresses.get("chief", ())) > 1:
        raise UserError(
            f"TF_CONFIG={text}: the cluster or the task ({kind} {index}) is wrong. The cluster must list workers and"
            " at most one chief, and nothing else. The task must be one of them. Indexes start at 0. Example:"
            f" {_EXAMPLE}."
        )
    return Cluster(
        worker=names.index((kind, index)), workers=len(names), addresses=tuple(addresses[k][i] for k, i in names)
    )
