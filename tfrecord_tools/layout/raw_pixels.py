"""Read raw pixels from shards straight into an array, without a copy of the record.

Only frames that start with the bytes that this package writes are read this way. So nothing has to be parsed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfrecord_tools.layout import schema
from tfrecord_tools.layout.record_map import Frames
from tfrecord_tools.layout.shard_files import ShardFiles


def read(shards: ShardFiles, frames: Frames, pixels: np.ndarray, before: Callable[[], object]) -> np.ndarray:
    """Read the images of k records.

    Args:
        shards: The shards.
        frames: Where the frames of the records are.
        pixels: u8[k h w 3], C-contiguous. The images are written into it.
        before: Called before each record.

    Returns:
        bool[k], whether each frame was read, has the expected start, and has the right checksums. The pixels of the
        others are undefined.
    """
    valid = np.zeros(len(pixels), bool)
    order = np.lexsort((frames.offsets, frames.shards))  # The order of the files.
    for i, shard, size, offset in zip(order.tolist(), *(part[order].tolist() for part in frames)):
        before()
        valid[i] = _read_image(shards, shard, size, offset, pixels[i].reshape(-1))
    return valid


def _read_image(shards: ShardFiles, shard: int, size: int, offset: int, image: np.ndarray) -> bool:
    expected = schema.start_of_frame(size, image.size)
    end_bytes = size - len(expected) - image.size
    if end_bytes < schema.CRC_BYTES:
        return False
    start, end = bytearray(len(expected)), bytearray(end_bytes)
    try:
        count = shards.read_into(shard, (start, image.data, end), offset)
    except OSError:
        return False
    return count == size and start == expected and schema.is_end_valid(expected, image, bytes(end))
