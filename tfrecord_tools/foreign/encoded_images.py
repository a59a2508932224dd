"""Read the encoded images in third-party TFRecords, with or without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tfrecord_tools.base import words
from tfrecord_tools.foreign import example_parser, forms, guess_keys, samples, tfrecord_files
from tfrecord_tools.foreign.forms import Form, Unusable


class EncodedImage(NamedTuple):
    """An image in a record.

    Attributes:
        path: Path in the record. A record without a path has the name of its file and its number: `a.tfrec:3`.
        data: The encoded image; b"" if the record has no image.
        reason: Why the record has no image; "" if it has one.
    """

    path: str
    data: bytes
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageRecords:
    """TFRecord files with images.

    Attributes:
        shards: The files, and the compression of each.
        form: The names of the features for image and path. The name for the label is "".
        notes: Lines for the user.
    """

    shards: Sequence[tuple[Path, str]]
    form: Form
    notes: Sequence[str]

    def read(self, on_damage: Callable[[str], object]) -> Iterator[EncodedImage]:
        """Yield the images of all files, in order.

        Args:
            on_damage: As in `tfrecord_files.read`.
        """
        for path, compression in self.shards:
            for number, data in enumerate(tfrecord_files.read(path, compression, on_damage)):
                yield self._image(f"{path.name}:{number}", data)

    def _image(self, place: str, data: bytes) -> EncodedImage:
        example = example_parser.parse(data)
        if example is None:
            return EncodedImage(place, b"", "it is not a tf.train.Example")
        path = forms.path_of(example, self.form) or place
        try:
            return EncodedImage(path, forms.image_of(example, self.form))
        except Unusable as error:
            return EncodedImage(path, b"", str(error))


def _valid(path: Path, compression: str) -> Iterator[bytes]:
    return tfrecord_files.read(path, compression, lambda message: None)


def find(flag: str, pattern: str, image_key: str | None) -> ImageRecords:
    """Find TFRecord files, and the feature that holds their images.

    Args:
        flag: The flag with the pattern, for messages.
        pattern: A file, a directory, or a shell pattern.
        image_key: The feature of the image. None: it is found by the names and values of the features.

    Raises:
        UserError: There are no such files, a file is damaged at its start, or no feature holds an encoded image.
    """
    notes: list[str] = []
    try:
        paths = tfrecord_files.matching(flag, pattern, notes, tfrecord_files.refuse)
    except tfrecord_files.Damage as damage:
        raise damage.advised() from damage
    shards = [(path, tfrecord_files.compression(path)) for path in paths]
    # Damaged records are reported when all records are read.
    parsed = samples.examples(shards[: samples.FILES], f"--{flag}={pattern}", _valid)
    where = f"{paths[0]}, first {words.number(len(parsed), 'record')}"
    keys = guess_keys.keys_of_images(parsed, image_key, where)
    path_key = f"path in {keys.path!r}" if keys.path else "no path"
    notes.insert(0, f"{words.number(len(paths), 'file')} with images in {keys.image!r}, {path_key}")
    return ImageRecords(shards=shards, form=Form(keys=keys), notes=notes)
