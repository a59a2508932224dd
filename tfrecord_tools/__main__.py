"""Lists the commands, `python -m tfrecord_tools`, or is one of them, `python -m tfrecord_tools COMMAND …`."""

from tfrecord_tools.base import command

COMMANDS = {
    "convert": "images -> verified, indexed TFRecords",
    "adopt": "TFRecords of others -> a dataset of this tool; they stay as and where they are",
    "export": "a dataset -> a directory of images, or webdataset's tar files",
    "transfer": "copies a dataset between this machine and an object store; resumable",
    "verify": "proves a dataset whole: every checksum, hash and image",
    "show": "what is in any TFRecord file or directory, and the code that reads it",
    "bench": "what holds a dataset's input pipeline back, and what would change it",
    "preview": "what an augmentation makes of an image, as a picture",
    "to_csv": "images -> CSVs of pixels",
    "sample": "draws a small cats-and-dogs image directory to try things on",
}


def main() -> None:
    command.run_package("tfrecord_tools", COMMANDS)


if __name__ == "__main__":
    main()
