"""Lists the commands: `python -m trainers`."""

from tfrecord_tools import command

COMMANDS = {
    "finetune": "fine-tunes a pretrained network on a dataset directory",
    "evaluate": "judges a trained model on a split of a dataset, with a report",
    "predict": "says of image files what they are",
    "export": "writes a trained model for TensorFlow Serving, LiteRT or ONNX",
}

if __name__ == "__main__":
    command.print_list("trainers", COMMANDS)
