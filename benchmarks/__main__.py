"""Lists the benchmarks: `python -m benchmarks`."""

from tfrecord_tools.base import command

COMMANDS = {
    "convert": "conversion of photographs against a TFDS builder and the decoder's limit (needs the extra `peers`)",
    "engines": "conversion by two local processes against two of Beam's own runner (needs the extra `beam`)",
    "features": "features of a pretrained network, and a folder to a classifier, against the notes' own code",
    "finetune": "accuracy and time of fine-tuning on photographs, by seed; equal weights after kills in each phase",
    "interop": "PyTorch's DataLoader over records beside torchvision's ImageFolder; random access (extra `interop`)",
    "interrupt": "kills a conversion at random moments and compares the files of the rerun, byte for byte",
    "memory": "peak memory of convert, to_csv and convert of the CSV at two sizes: bytes a file",
    "plan": "time and memory of plan and index up to a million simulated images",
    "open": "time to the first batch and memory at growing numbers of index rows",
    "predict": "predict against the model alone and decoding alone; the answer to one image against a bare script",
    "read": "images a second of the input, beside other loaders; how near the pixels are to Pillow's",
    "spread": "training in two and three processes of this machine against one with the same global batch",
    "train": "training with full augmentation against a constant batch; what a checkpoint costs",
    "scale": "an index of up to 10^8 rows, a plan of 10^6 shards, the order of 10^9 records, all simulated",
    "startup": "time to answer of convert's --help, a wrong flag and --dry_run against `import tensorflow`",
}

if __name__ == "__main__":
    command.print_list("benchmarks", COMMANDS)
