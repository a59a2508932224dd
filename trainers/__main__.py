"""Print the list of commands, or run one: python -m trainers [COMMAND ...]."""

from tfrecord_tools.base import command

COMMANDS = {
    "scratch": "train a network from random weights, on a dataset or on CSVs of pixels",
    "features": "train a head on features that a pretrained network computes once",
    "frozen": "train a head on a frozen pretrained network, with augmented images",
    "finetune": "train a head on a pretrained network, then the head and the last stage of the network",
    "compare": "train several variants with several seeds, and compare them in a table",
    "evaluate": "evaluate a trained model on a split of a dataset or on a folder, with a report",
    "audit": "find wrong labels, off-topic images and near-duplicates, and write a page to review them",
    "predict": "classify image files, or the records of a dataset",
    "doctor": "check whether this machine can train, and how it could train faster",
    "export": "write a trained model for TensorFlow Serving, LiteRT or ONNX",
}


def main() -> None:
    command.run_package("trainers", COMMANDS)


if __name__ == "__main__":
    main()
