"""List the benchmarks: `python -m benchmarks`."""

from tfrecord_tools.base import command

COMMANDS = {
    "audit": "wrong labels that the audit finds, compared with cleanlab (extra `peers`); strangers, near-duplicates",
    "check": "exit code 1 if a function that takes much of the time became slower; `make bench-check`",
    "convert": "conversion speed compared with an earlier checkout",
    "ends": "time of a training from the command to the first step, and from the last step to the exit",
    "engines": "conversion by two local processes compared with two processes of Beam (extra `beam`)",
    "finetune": "accuracy and time of fine-tuning for several seeds; equal weights after kills in each phase",
    "inference": "features of images in memory by OpenVINO compared with TensorFlow (extra `openvino`)",
    "interop": "PyTorch's DataLoader on records compared with torchvision's ImageFolder (extra `interop`)",
    "interrupt": "kill a conversion at random moments and check that the rerun writes the same bytes",
    "memory": "peak memory of convert, to_csv and convert of the CSV, in bytes per file",
    "plan": "time and memory of plan and index for up to a million simulated images",
    "near_duplicates": "near-duplicates by hash: recall for twelve changes, false pairs, time and memory",
    "open": "time to the first batch and memory for growing numbers of index rows",
    "pixels": "decoded pixels compared with Pillow's",
    "remote": "waiting time, bytes and requests of a reader whose dataset is in a bucket and larger than its cache",
    "remote_peers": "reading from a bucket with a small cache, this package and other projects side by side",
    "spread": "training in two and three processes compared with one process and the same global batch",
    "table": "this package, other projects and limits of the machine side by side (`make .venv-peers/installed`)",
    "train": "training with full augmentation compared with a constant batch; cost of a checkpoint",
    "scale": "an index of up to 10^8 rows, a plan of 10^6 shards, the order of 10^9 records, all simulated",
    "startup": "time of convert's --help, a wrong flag and --dry_run compared with `import tensorflow`",
}

if __name__ == "__main__":
    command.print_list("benchmarks", COMMANDS)
