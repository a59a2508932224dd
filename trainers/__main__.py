"""Lists the commands: `python -m trainers`."""

from tfrecord_tools import command

COMMANDS = {
    "finetune": "fine-tunes a pretrained network on a dataset directory",
}

if __name__ == "__main__":
    command.print_list("trainers", COMMANDS)
