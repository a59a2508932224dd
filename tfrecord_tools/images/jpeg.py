"""What libjpeg lets pass of a broken JPEG and TensorFlow does not, and what of it can be repaired."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff([\x01-\xfe])")  # In coded data, 0xff is followed by 0x00 or a restart marker.
_SCAN = 0xDA
_METADATA = 0xE1  # EXIF and XMP.
_INDEX, _SEVERAL = 0xE2, b"MPF\0"  # A segment that says where the other pictures of the file are (CIPA DC-007).
_FRAMES = (0xC0, 0xC1)  # Baseline and extended; others are progressive, lossless or arithmetic.
_ALL_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_INTERVAL = 0xDD  # How many units of coded data lie between two restart markers.
_JPEG_LS = 0xF7
_SEGMENT = struct.Struct(">BH")  # Marker, length.
_LOSSLESS = (0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF)  # And hierarchical.
_FRAME = struct.Struct(">BHHB")  # Bits, height, width, components (JPEG standard, B.2.2).
_RESTARTS = range(0xD0, 0xD8)
_SEGMENTS = frozenset({*range(0xC0, 0xFF)} - {*_RESTARTS, 0xD8, END[1]})  # Followed by a length and content.
_MAX_SCANS = 500  # A progressive file has about ten; each costs a pass over all pixels (libjpeg-turbo's -maxscans).
_MAX_JUNK_BYTES = 1 << 16
_PADDING = b"\0\r\n\t "
_NOISE_BYTES = 24  # For each block of 8 x 8 values.


class DamagedJpegError(Exception):
    """What is wrong."""


class RefusedJpegError(DamagedJpegError):
    """Why it is not to be decoded, whole or not."""


def check_markers(data: bytes) -> int:
    """Checks that the markers lead to the end marker.

    Pillow stops at the last row. TensorFlow insists on the end marker, which is gone from a file whose end
    was overwritten, as by the zeros of a download that was broken off.

    Returns:
        The position behind the end marker.

    Raises:
        RefusedJpegError: It is of a kind that TensorFlow does not read, such as one of 12 bits, or has so many scans
            that only decoding them for long was meant.
        DamagedJpegError: The markers lead to no end.
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
            raise RefusedJpegError("a lossless JPEG, which hardly any decoder reads")
        if code == _JPEG_LS:
            raise RefusedJpegError("a JPEG-LS image, which hardly any decoder reads")
        if code in _ALL_FRAMES and not scans:
            _check_frame(data[marker.end() + 2 :][: _FRAME.size])
        if scans > _MAX_SCANS:
            raise RefusedJpegError(f"the JPEG has more than {_MAX_SCANS} scans")
    raise DamagedJpegError(f"the JPEG ends at byte {len(data):,}, before its end marker")


def _check_frame(header: bytes) -> None:
    if len(header) < _FRAME.size:
        return  # The markers lead to no end either.
    bits, _, _, components = _FRAME.unpack(header)
    if bits != 8:
        raise RefusedJpegError(f"a JPEG of {bits} bits per sample, and 8 are read; map it to 8 bits and save it as PNG")
    if components not in (1, 3, 4):
        raise RefusedJpegError(f"a JPEG of {components} components, and 1, 3 and 4 are read; save it as PNG")


def has_end(data: bytes) -> bool:
    """Whether `check_markers` finds nothing wrong."""
    try:
        check_markers(data)
    except DamagedJpegError:
        return False
    return True


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a JPEG that may pass as it is, as its header says.

    None where Pillow has to look, which takes longer: it may be damaged, CMYK, rotated by its metadata, one of several
    pictures, or of any number of scans. One baseline scan of all components is all that libjpeg reads.
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
    return (width, height) if plain and height and width else None


def repair(data: bytes) -> tuple[bytes, str]:
    """Cuts junk off the front and ends a JPEG that only lacks its tail.

    Returns:
        The repaired bytes and what was wrong; the same bytes and "" if there was nothing to repair.
    """
    whole, start = data, data.find(SIGNATURE, 0, _MAX_JUNK_BYTES)
    if start < 0:
        return data, ""
    wrong = [f"{start:,} bytes before the JPEG"] if start else []
    data = data[start:]
    try:
        end = check_markers(data)
        if start and data[end:].strip(_PADDING):
            return whole, ""  # Something else that contains a JPEG, such as a preview.
    except RefusedJpegError:
        if start:
            return whole, ""  # Three bytes that look like a JPEG's start.
        raise
    except DamagedJpegError:
        data = data.rstrip(b"\xff") + END  # A broken marker at the very end would be taken for one with a length.
        wrong.append("no end marker")
    return data, " and ".join(wrong)


def decodes_cleanly(data: bytes) -> bool:
    """Whether all of the entropy decoding, and almost none of the inverse DCT, ends without error or warning.

    At 1/8 scale; it takes two thirds of the time that Pillow takes for the same. A missing end marker is a warning.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", fastdct=True, fastupsample=True, min_height=1, min_width=1)
    except ValueError:
        return False
    return True


def lost_share(data: bytes, *, details: bool) -> float:
    """Returns the share of the pixels that were filled in because coded data are missing, though all markers are there.

    libjpeg fills in what a cut took away, and only warns. Such pixels show in two ways: restart markers are missing,
    or noise in front of the markers that end coded data changes them. A decoder that has all data skips the noise.

    Args:
        data: A JPEG whose markers lead to its end.
        details: Count pixels of a progressive JPEG as lost if only their details are.

    Raises:
        OSError: It does not decode.
    """
    before, after = (_pixels(version, details) for version in (data, _with_noise(data)))
    differs = (before != after).reshape(*before.shape[:2], -1).any(axis=-1)
    return max(float(differs.mean()), _lost_restarts(data))


def _pixels(data: bytes, details: bool) -> np.ndarray:
    """The pixels at 1/8 scale, in which the finer scans of a progressive JPEG do not show; with `details` all."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.decodermaxblock = (
            len(data) + 1
        )  # Read at once, as TensorFlow does; else what lies behind 64 KiB is not seen.
        if not details or "progressive" not in image.info:
            image.draft(None, (1, 1))
        return np.asarray(image)


def _with_noise(data: bytes) -> bytes:
    """Inserts noise wherever coded data end, of the length that the whole image could need."""
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
    return np.random.default_rng(0).integers(0, 255, count, np.uint8).tobytes()  # Without 0xff: no markers.


def _markers(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields code, position and content of the markers up to the end marker; of those without a length, b""."""
    position = len(SIGNATURE) - 1
    while marker := _MARKER.search(data, position):
        code, start, position = marker[1][0], marker.start(), marker.end()
        length = int.from_bytes(data[position : position + 2], "big") if code in _SEGMENTS else 0
        yield code, start, data[position + 2 : position + length]
        position += length
        if code == END[1]:
            return


def _lost_restarts(data: bytes) -> float:
    """Returns the largest share of a scan's restart intervals that is missing."""
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
    """The number of units, of which restart intervals consist, in a scan (JPEG standard, A.2); 0 if it is damaged."""
    if len(frame) < _FRAME.size + 3 or len(scan) < 2:
        return 0
    _, height, width, _ = _FRAME.unpack_from(frame)
    sampling = {frame[i]: divmod(frame[i + 1], 16) for i in range(_FRAME.size, len(frame) - 2, 3)}
    across, down = (max(1, *factors) for factors in zip((1, 1), *sampling.values()))
    if scan[0] > 1:
        return -(-width // (8 * across)) * -(-height // (8 * down))
    own = sampling.get(scan[1], (1, 1))  # A scan of one component consists of its blocks.
    width, height = -(-width * own[0] // across), -(-height * own[1] // down)
    return -(-width // 8) * -(-height // 8)
