"""The job that a process belongs to when a training is spread over several; without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

from tfrecord_tools.errors import UserError

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The place of this process among the workers of a job.

    Attributes:
        worker: Its number, from 0; worker 0 is the chief, who writes what there is to write.
        workers: How many there are.
        addresses: host:port of each.
    """

    worker: int = 0
    workers: int = 1
    addresses: tuple[str, ...] = ()

    @property
    def shard(self) -> tuple[int, int]:
        """Which slice of each batch this process reads, of how many."""
        return self.worker, self.workers


def from_environment() -> Cluster:
    """Reads TF_CONFIG, as TensorFlow will: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG

    Raises:
        UserError: It is missing, or not that of a worker.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise UserError(f"--strategy=multi_worker: TF_CONFIG is not set in the environment. {_EXAMPLE} is expected.")
    try:
        job: dict[str, Any] = json.loads(text)
        addresses, kind, index = job["cluster"], job["task"]["type"], int(job["task"]["index"])
        if not all(isinstance(hosts, list) for hosts in addresses.values()):
            raise TypeError
        names = [(role, i) for role in ("chief", "worker") for i in range(len(addresses.get(role, ())))]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"TF_CONFIG={text}: {_EXAMPLE} is expected.") from error
    if (kind, index) not in names or set(addresses) - {"chief", "worker"} or len(addresses.get("chief", ())) > 1:
        raise UserError(
            f"TF_CONFIG={text}: task {kind} {index} is none of its workers. Each process of the job is a worker (or one"
            f" the chief), with an index of its own from 0: {_EXAMPLE}."
        )
    return Cluster(
        worker=names.index((kind, index)), workers=len(names), addresses=tuple(addresses[k][i] for k, i in names)
    )
