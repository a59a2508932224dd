"""List the benchmarks: `python -m benchmarks`."""

from tfrecord_tools.base import command

COMMANDS = {
    "audit": "wrong labels that the audit finds, compared with cleanlab (extra `peers`); strangers, near-duplicates",
    "convert": "conversion speed compared with a TFDS builder and with the JPEG decoder alone (extra `peers`)",
    "engines": "conversion by two local processes compared with two processes of Beam (extra `beam`)",
    "features": "feature extraction and training compared with the code of the reference recipe",
    "finetune": "accuracy and time of fine-tuning for several seeds; equal weights after kills in each phase",
    "inference": "features of images in memory by OpenVINO compared with TensorFlow (extra `openvino`)",
    "interop": "PyTorch's DataLoader on records compared with torchvision's ImageFolder (extra `interop`)",
    "interrupt": "kill a conversion at random moments and check that the rerun writes the same bytes",
    "memory": "peak memory of convert, to_csv and convert of the CSV, in bytes per file",
    "plan": "time and memory of plan and index for up to a million simulated images",
    "near_duplicates": "near-duplicates by hash: recall for twelve changes, false pairs, time and memory",
    "open": "time to the first batch and memory for growing numbers of index rows",
    "predict": "speed of predict compared with model and decoder alone; time to predict one image",
    "read": "images/s of the input pipeline compared with other loaders; pixels compared with Pillow's",
    "spread": "training in two and three processes compared with one process and the same global batch",
    "train": "training with full augmentation compared with a constant batch; cost of a checkpoint",
    "scale": "an index of up to 10^8 rows, a plan of 10^6 shards, the order of 10^9 records, all simulated",
    "startup": "time of convert's --help, a wrong flag and --dry_run compared with `import tensorflow`",
}

if __name__ == "__main__":
    command.print_list("benchmarks", COMMANDS)
