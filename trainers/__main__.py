"""Lists the commands, `python -m trainers`, or is one of them, `python -m trainers COMMAND …`."""

from tfrecord_tools.base import command

COMMANDS = {
    "scratch": "trains a network from random weights, on a dataset directory or on CSVs of pixels",
    "features": "trains a head on the features of a pretrained network, computed once",
    "frozen": "trains a head on a pretrained network, on augmented images",
    "finetune": "trains a head on a pretrained network, then its last stage too",
    "compare": "trains several variants with several seeds and shows side by side what came out",
    "evaluate": "judges a trained model on a split of a dataset, with a report",
    "predict": "says of image files what they are",
    "doctor": "says whether this machine can train, and what would make it train better",
    "export": "writes a trained model for TensorFlow Serving, LiteRT or ONNX",
}


def main() -> None:
    command.run_package("trainers", COMMANDS)


if __name__ == "__main__":
    main()
