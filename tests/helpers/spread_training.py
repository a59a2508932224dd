"""A small training on several devices or in several processes that can be killed at any step.

    python spread_training.py OUT RUN STRATEGY DEVICES KILL_AT [BACKBONE_KWARGS]

trains on OUT in RUN with DEVICES logical devices, and kills this process with SIGKILL before its KILL_AT-th step (0:
never). For the strategy multi_worker, TF_CONFIG gives the worker's number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from image_sources import REPOSITORY


def start(
    out: Path,
    run: Path,
    strategy: str,
    *,
    devices: int = 1,
    kill_at: int = 0,
    worker: dict[str, Any] | None = None,
    **backbone_kwargs: Any,
) -> subprocess.Popen[str]:
    """Start one process; `worker` is the content of TF_CONFIG."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if worker:
        environment["TF_CONFIG"] = json.dumps(worker)
    arguments = [str(out), str(run), strategy, str(devices), str(kill_at), json.dumps(backbone_kwargs)]
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def main(out: str, run: str, strategy: str, devices: str, kill_at: str, backbone_kwargs: str) -> None:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices))

    from tfrecord_tools import dataset
    from tfrecord_tools.errors import UserError
    from trainers import recipes, training
    from trainers.fitting import throughput

    seen = []

    def kill(self: object, batch: int, logs: object = None) -> None:
        seen.append(batch)
        if len(seen) == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    if int(kill_at):
        throughput.Throughput.on_train_batch_begin = kill
    # No dropout, because each device draws its own random numbers.
    layers = {"batch_norm": False} | json.loads(backbone_kwargs)
    recipe = recipes.scratch(backbone_kwargs=layers, image_size=32, dropout=0.0)
    recipe = recipes.override(
        recipe,
        batch_size=12,
        epochs=[3],
        augment="reference",
        class_weights="balanced",
        learning_rate=[1e-2],
        # Adam would amplify the rounding errors of gradients that should be 0.
        phase={"schedule": "constant", "optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.9}},
    )
    config = recipes.TrainConfig(tfrecords=out, run=run, strategy=strategy, checkpoint_every=1)
    try:
        training.train("scratch", dataset.open(out), recipe, config)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
