"""Check JPEGs for damage that libjpeg tolerates and TensorFlow does not, and repair some of it."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # Within image data, 0xff is followed by 0x00 or is a restart marker.
_SCAN = 0xDA
_METADATA = 0xE1  # EXIF and XMP.
_INDEX, _SEVERAL = 0xE2, b"MPF\0"  # Segment with the positions of the other pictures in the file (CIPA DC-007).
_FRAMES = (0xC0, 0xC1)  # Baseline and extended. Others are progressive, lossless or arithmetic.
_ALL_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_INTERVAL = 0xDD  # Segment with the number of units (MCUs) between two restart markers.
_JPEG_LS = 0xF7
_SEGMENT = struct.Struct(">BH")  # Marker, length.
_LOSSLESS = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)  # Lossless or hierarchical.
_FRAME = struct.Struct(">BHHB")  # Bits, height, width, components (JPEG standard, B.2.2).
_RESTARTS = range(0xD0, 0xD8)
_SEGMENTS = frozenset({*range(0xC0, 0xFF)} - {*_RESTARTS, 0xD8, END[1]})  # Markers with a length and content.
# A progressive file has about ten scans. Decoding one is a pass over all pixels. Compare -maxscans of libjpeg-turbo.
_MAX_SCANS = 500
_MAX_JUNK_BYTES = 1 << 16
_PADDING = b"\0\r\n\t "
_SMALL = 32  # Images are not decoded to fewer pixels per side. Equal to `appearance.SIDE`.
_NOISE_BYTES = 24  # Bytes of noise per block of 8 x 8 values.


class DamagedJpegError(Exception):
    """A damaged JPEG."""


class RefusedJpegError(DamagedJpegError):
    """A JPEG that must not be decoded, even if it is not damaged."""


class Frame(NamedTuple):
    """Width and height of a JPEG in pixels, and its number of channels."""

    width: int
    height: int
    components: int


def check_markers(data: bytes) -> int:
    """Follow the markers to the end marker.

    Pillow stops at the last row, but TensorFlow needs the end marker. The end marker is missing if the end of the file
    was overwritten, for example with zeros by an interrupted download.

    Returns:
        The position after the end marker.

    Raises:
        RefusedJpegError: TensorFlow does not read this kind of JPEG, for example with 12 bits per sample. Or the file
            has more than `_MAX_SCANS` scans, so it is probably an attack.
        DamagedJpegError: The end marker is missing.
    """
    position, scans = len(SIGNATURE) - 1, 0
    while marker := _MARKER.search(data, position):
        code, position = marker[1][0], marker.end()
        if code == END[1]:
            return position
        if code in _SEGMENTS:
            position += int.from_bytes(data[position : position + 2], "big")
        scans += code == _SCAN
        if code in _LOSSLESS:
            raise RefusedJpegError("a lossless JPEG, which few decoders support; save it as PNG")
        if code == _JPEG_LS:
            raise RefusedJpegError("a JPEG-LS image, which few decoders support; save it as PNG")
        if code in _ALL_FRAMES and not scans:
            _check_frame(data[marker.end() + 2 :][: _FRAME.size])
        if scans > _MAX_SCANS:
            raise RefusedJpegError(f"the JPEG has more than {_MAX_SCANS} scans")
    raise DamagedJpegError(f"the JPEG ends at byte {len(data):,}, before its end marker")


def _check_frame(header: bytes) -> None:
    if len(header) < _FRAME.size:
        return  # The end marker is missing, too. `check_markers` reports that.
    bits, _, _, components = _FRAME.unpack(header)
    if bits != 8:
        raise RefusedJpegError(
            f"a JPEG with {bits} bits per sample, only 8 are supported; map it to 8 bits and save it as PNG"
        )
    if components not in (1, 3, 4):
        raise RefusedJpegError(f"a JPEG with {components} components, only 1, 3 and 4 are supported; save it as PNG")


def has_end(data: bytes) -> bool:
    """Return whether `check_markers` finds no defect."""
    try:
        check_markers(data)
    except DamagedJpegError:
        return False
    return True


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG in pixels; None if `plain_frame` returns None."""
    frame = plain_frame(data)
    return None if frame is None else (frame.width, frame.height)


def plain_frame(data: bytes) -> Frame | None:
    """Read size and channels of a JPEG from its header, if it can probably be stored unchanged.

    None means that Pillow must check the file, which takes longer. The file may be damaged, in CMYK, rotated by its
    metadata, or have several pictures or scans. If the result is not None, one baseline scan has all components.
    """
    position, frame = len(SIGNATURE) - 1, None
    while data[position : position + 1] == b"\xff" and position + 4 + _FRAME.size <= len(data):
        code, length = _SEGMENT.unpack_from(data, position + 1)
        if code == _SCAN:
            break
        if code == _METADATA or code not in _SEGMENTS:
            return None
        if code == _INDEX and data.startswith(_SEVERAL, position + 4):
            return None
        if code in _FRAMES:
            frame = _FRAME.unpack_from(data, position + 4)
        position += 2 + length
    else:
        return None
    if frame is None:
        return None
    bits, height, width, components = frame
    plain = bits == 8 and components in (1, 3) and data[position + 4 : position + 5] == bytes((components,))
    return Frame(width, height, components) if plain and height and width else None


def repair(data: bytes) -> tuple[bytes, str]:
    """Remove junk before a JPEG, and add a missing end marker.

    Returns:
        The repaired bytes and the defects; the same bytes and "" if there was nothing to repair.
    """
    original, start = data, data.find(SIGNATURE, 0, _MAX_JUNK_BYTES)
    if start < 0:
        return data, ""
    defects = [f"{start:,} bytes before the JPEG"] if start else []
    data = data[start:]
    try:
        end = check_markers(data)
        if start and data[end:].strip(_PADDING):
            return original, ""  # This is another kind of file, with a JPEG inside it, for example as a preview.
    except RefusedJpegError:
        if start:
            return original, ""  # The three bytes only look like the start of a JPEG.
        raise
    except DamagedJpegError:
        data = data.rstrip(b"\xff") + END  # 0xff at the end would make a wrong marker with the first byte of END.
        defects.append("no end marker")
    return data, " and ".join(defects)


def decodes_cleanly(data: bytes) -> bool:
    """Return whether a JPEG decodes without error or warning. A missing end marker is a warning."""
    return decoded_small(data) is not None


def decoded_small(data: bytes, *, strict: bool = True) -> np.ndarray | None:
    """Decode the gray levels of a JPEG at 1/8 scale, u8[h w 1].

    If a side would have fewer than 32 pixels, a larger scale is used.
    At 1/8 scale, all of the entropy decoding is done, and almost none of the inverse DCT. Pillow takes 1.5 times as
    long for the same.

    Args:
        data: The JPEG.
        strict: Whether a warning of the decoder counts as an error.

    Returns:
        The levels. None: the JPEG does not decode.
    """
    options = {"fastdct": True, "fastupsample": True, "min_height": _SMALL, "min_width": _SMALL, "strict": strict}
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "GRAY", **options))
    except ValueError:
        return None


def lost_share(data: bytes, *, details: bool) -> float:
    """Return the fraction of pixels without data in a JPEG with all its markers.

    libjpeg fills such pixels with a color and only warns. This function finds them in two ways. First, restart markers
    are missing. Second, noise is inserted where image data ends, and pixels change. If no data is missing, decoders
    skip the noise, and no pixel changes.

    Args:
        data: A JPEG with an end marker.
        details: Whether pixels of a progressive JPEG count as lost if only their details are lost.

    Raises:
        OSError: The JPEG does not decode.
    """
    before, after = (_pixels(version, details) for version in (data, _with_noise(data)))
    differs = (before != after).reshape(*before.shape[:2], -1).any(axis=-1)
    return max(float(differs.mean()), _lost_restarts(data))


def _pixels(data: bytes, details: bool) -> np.ndarray:
    """Decode at 1/8 scale, or at full scale if `details` of a progressive JPEG matter."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        # The file is read at once, as TensorFlow does. By default, Pillow does not see data after the first 64 KiB.
        image.decodermaxblock = len(data) + 1
        if not details or "progressive" not in image.info:
            image.draft(None, (1, 1))
        return np.asarray(image)


def _with_noise(data: bytes) -> bytes:
    """Insert noise wherever image data ends. The noise is enough data for all pixels of the image."""
    ends, coded = [], False
    for code, start, content in _markers(data):
        if coded:
            ends.append(len(data[:start].rstrip(b"\xff")) if data[start - 1] == 0xFF else start)  # Fill bytes.
        if code in _ALL_FRAMES and len(content) >= _FRAME.size:
            _, height, width, components = _FRAME.unpack_from(content)
        coded = code == _SCAN or code in _RESTARTS
    if not ends:
        return data
    blocks = -(-height // 8) * -(-width // 8) * components
    noise = _noise(_NOISE_BYTES + _NOISE_BYTES * blocks // len(ends))
    parts = (data[start:end] for start, end in zip([0, *ends], [*ends, len(data)]))
    return noise.join(parts)


def _noise(count: int) -> bytes:
    return np.random.default_rng(0).integers(0, 255, count, np.uint8).tobytes()  # No byte is 0xff: no markers.


def _markers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield code, position and content of all markers up to the end marker. Content may be b""."""
    position = len(SIGNATURE) - 1
    while marker := _MARKER.search(data, position):
        code, start, position = marker[1][0], marker.start(), marker.end()
        length = int.from_bytes(data[position : position + 2], "big") if code in _SEGMENTS else 0
        yield code, start, data[position + 2 : position + length]
        position += length
        if code == END[1]:
            return


def _lost_restarts(data: bytes) -> float:
    """Return the largest fraction of restart intervals that are missing in a scan."""
    frame, interval, expected, seen, lost = b"", 0, 0, 0, 0.0
    for code, _, content in _markers(data):
        if code in _RESTARTS:
            seen += 1
            continue
        lost = max(lost, (expected - seen) / (expected + 1))
        frame = content if code in _ALL_FRAMES else frame
        interval = int.from_bytes(content[:2], "big") if code == _INTERVAL else interval
        units = _units(frame, content) if code == _SCAN and interval else 0
        expected, seen = -(-units // interval) - 1 if units else 0, 0
    return lost


def _units(frame: bytes, scan: bytes) -> int:
    """Return the number of units (MCU) in a scan (JPEG standard, A.2); 0 if the scan is damaged."""
    if len(frame) < _FRAME.size + 3 or len(scan) < 2:
        return 0
    _, height, width, _ = _FRAME.unpack_from(frame)
    sampling = {frame[i]: divmod(frame[i + 1], 16) for i in range(_FRAME.size, len(frame) - 2, 3)}
    across, down = (max(1, *factors) for factors in zip((1, 1), *sampling.values()))
    if scan[0] > 1:
        return -(-width // (8 * across)) * -(-height // (8 * down))
    own = sampling.get(scan[1], (1, 1))  # In a scan of one component, a unit is a block.
    width, height = -(-width * own[0] // across), -(-height * own[1] // down)
    return -(-width // 8) * -(-height // 8)
