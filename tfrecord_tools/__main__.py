"""Print the list of commands, or run one: python -m tfrecord_tools [COMMAND ...]."""

from tfrecord_tools.base import command

COMMANDS = {
    "convert": "convert images into verified, indexed TFRecords",
    "adopt": "index TFRecords of another program without copying them",
    "export": "write images as folders, webdataset, Parquet or ArrayRecord files",
    "transfer": "copy a dataset between this machine and an object store",
    "verify": "check that a dataset is complete and undamaged",
    "show": "show the contents of any TFRecord file, and the code that reads it",
    "bench": "measure the input pipeline of a dataset, and name its bottleneck",
    "preview": "draw an image with random changes of an augmentation",
    "to_csv": "write images as CSV files of pixels",
    "sample": "draw a small image dataset of cats and dogs, to try the other commands",
}


def main() -> None:
    command.run_package("tfrecord_tools", COMMANDS)


if __name__ == "__main__":
    main()
