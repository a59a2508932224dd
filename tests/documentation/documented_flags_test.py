"""README and docs name only flags that the command in question has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from command_list import COMMANDS, EVERYWHERE, FLAG, FOREIGN, TRAINING, has, named
from image_sources import REPOSITORY

PAGES = sorted(path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "README.ko.md", *PAGES]
CONVERT, ADOPT = ("tfrecord_tools.convert",), ("tfrecord_tools.adopt",)
NOT_THERE = frozenset({"lr"})  # An example of a flag that does not exist.
COMPARE = ("trainers.compare",)
JUDGES = ("trainers.evaluate", "trainers.predict", "trainers.export")

# Document and title -> the commands that the section is about. The title "" is the whole document.
SPEAKS_OF = {
    ("README.md", "Install"): TRAINING,
    ("README.md", "You want …"): (*TRAINING, "trainers.export", "tfrecord_tools.export"),
    ("README.ko.md", "설치"): TRAINING,
    ("README.ko.md", "하고 싶은 일 …"): (*TRAINING, "trainers.export", "tfrecord_tools.export"),
    ("docs/converting.md", ""): CONVERT,
    ("docs/converting.md", "Command line conventions"): TRAINING,
    ("docs/after_training.md", ""): (*JUDGES, *CONVERT),
    ("docs/audit.md", ""): (*TRAINING, "trainers.audit", *CONVERT),
    ("docs/results.md", ""): TRAINING,
    ("docs/tutorial.md", ""): TRAINING,
    ("docs/howto/bucket.md", "Train from a bucket"): TRAINING,
    ("docs/howto/bucket.md", "The cache"): TRAINING,
    ("docs/howto/bucket.md", "Choose the order"): TRAINING,
    ("docs/decisions/0073-records-in-sparse-files.md", ""): TRAINING,
    **{
        ("docs/howto/bucket.md", title): CONVERT
        for title in (
            "Convert into a bucket",
            "The local disk during the conversion",
            "When it is killed",
            "Two conversions into one place",
            "Update",
            "Permissions",
            "Limits",
        )
    },
    ("docs/decisions/0075-datasets-written-into-buckets.md", ""): CONVERT,
    ("docs/howto/own_folder.md", ""): CONVERT,
    ("docs/howto/kaggle.md", ""): CONVERT,
    ("docs/decisions/0044-stratified-automatic-split.md", ""): CONVERT,
    ("docs/decisions/0052-no-autograph.md", ""): TRAINING,
    ("docs/decisions/0054-decisions-by-content.md", ""): CONVERT,
    ("docs/decisions/0059-code-runs-only-if-named.md", ""): JUDGES,
    ("docs/decisions/0060-class-names-are-never-guessed.md", ""): JUDGES,
    ("docs/decisions/0062-more-epochs-are-a-longer-training.md", ""): TRAINING,
    ("docs/howto/imbalanced.md", ""): (*TRAINING, *JUDGES),
    ("docs/howto/compare.md", ""): (*TRAINING, *COMPARE),
    ("docs/howto/trackers.md", ""): (*TRAINING, *COMPARE),
    ("docs/decisions/0070-history-is-the-truth-of-trackers.md", ""): TRAINING,
    ("docs/howto/not_square.md", ""): (*TRAINING, *JUDGES, "tfrecord_tools.preview"),
    ("docs/howto/resume.md", ""): (*TRAINING, *CONVERT),
    ("docs/howto/own_network.md", ""): (*TRAINING, *JUDGES),
    ("docs/howto/several_gpus.md", ""): TRAINING,
    ("docs/howto/android.md", ""): JUDGES,
    ("docs/howto/other_programs.md", ""): (*CONVERT, *TRAINING),
    ("docs/trainers.md", ""): TRAINING,
    ("docs/trainers.md", "The directory of compare"): (*TRAINING, *COMPARE),
    ("docs/decisions/0066-one-worker-for-all-trainings.md", ""): TRAINING,
    ("docs/decisions/0067-doubtful-images-are-left-out-not-weighted.md", ""): TRAINING,
    ("docs/interop.md", "From and to Hugging Face and webdataset"): ("tfrecord_tools.export", *CONVERT),
    ("docs/interop.md", "TFRecords that others wrote"): ADOPT,
    ("docs/folders.md", ""): (*CONVERT, "tfrecord_tools.to_csv"),
    ("docs/folders.md", "TFRecords that others wrote"): ADOPT,
    ("docs/manifests.md", ""): (*CONVERT, "tfrecord_tools.to_csv"),
    ("docs/scaling.md", ""): CONVERT,
    ("docs/format.md", ""): (*CONVERT, *ADOPT),
    ("docs/pipeline.md", "Bottlenecks"): (*TRAINING, "tfrecord_tools.bench"),
    ("docs/pipeline.md", "Augmentation"): TRAINING,
    ("docs/pipeline.md", "A function of yours"): TRAINING,
    ("docs/from_image_data_generator.md", ""): CONVERT,
}


def passages(document: str) -> Iterator[tuple[str, str]]:
    """Yield each passage of a document with its title: a command with its arguments, or a sentence."""
    title = ""
    for block in re.split(r"\n\s*\n", (REPOSITORY / document).read_text()):
        if heading := re.match(r"#+ (.*)", block):
            title = heading[1]
        if block.startswith("    "):
            lines = "".join(f"\n{line}" for line in block.replace("\\\n", " ").splitlines())
            yield from ((title, part) for part in re.split(r"\n(?=\s+(?:python|make|curl|\w+=))", lines))
        else:
            yield from ((title, part) for part in re.split(r"(?<=[.;:])\s+|\n(?=[|*])", block))


def speaks_of(document: str, title: str, passage: str) -> set[str]:
    """Return the commands that a passage names, in full or in backticks, and those of its section."""
    spoken = set(re.findall(r"`(?:python -m )?(\w+)\b", passage))
    commands = named(passage) | {command for command in COMMANDS if command.partition(".")[2] in spoken}
    return commands | set(SPEAKS_OF.get((document, title), SPEAKS_OF.get((document, ""), ())))


def exists(name: str, commands: set[str], passage: str) -> bool:
    """Return whether a command, or a benchmark that the passage names, has a flag."""
    if name in EVERYWHERE | FOREIGN | NOT_THERE or any(has(command, name) for command in commands):
        return True
    named = re.findall(r"(?<!/)benchmarks\.(\w+)", passage)  # docs/benchmarks.md is a page.
    sources = [(REPOSITORY / f"benchmarks/{one}.py").read_text() for one in named]
    return any(re.search(rf'DEFINE_\w+\(\s*"{name}"', source) for source in sources)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_names_flags_that_exist(document: str) -> None:
    strange = [
        f"--{name} with {', '.join(sorted(commands)) or 'no command'}: {passage.strip()}"
        for title, passage in passages(document)
        for commands in [speaks_of(document, title, passage)]
        for name in FLAG.findall(passage)
        if not exists(name, commands, passage)
    ]
    assert strange == []


def test_named_sections_exist() -> None:
    for document, title in SPEAKS_OF:
        assert not title or title in {title for title, _ in passages(document)}, (document, title)
