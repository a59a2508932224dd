"""Read tags of TIFF files, to recognize raw photographs and describe pixels that Pillow does not read.

Layout (TIFF 6.0, section 2): a header has the byte order and the offset of the first directory. A directory is a count,
then entries of tag, type, count and value (or the offset of the value, if it does not fit into its field).
"""

from __future__ import annotations

import ctypes
import functools
import logging
import struct
import threading

from PIL import _imaging

Directory = dict[int, tuple[int, ...]]  # Tag -> values; only integers.
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # BYTE, SHORT, LONG, IFD and those of BigTIFF.
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _FORMAT = 258, 259, 262, 277, 339
_SUB_DIRECTORIES, _DNG_VERSION = 330, 50706
_CR2 = b"CR"  # After the header.
_SENSOR_DATA = (32803, 34892)  # Photometric interpretations: color filter array, and its linear values.
_RAW_COMPRESSIONS = (32767, 32769, 32770, 34713, 65000)  # Sony, Epson, Samsung, Nikon, Kodak.
_COMPRESSIONS = {34661: "JBIG", 34892: "lossy JPEG", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}
_FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
_COLORS = {5: "CMYK", 6: "YCbCr", 8: "LAB", 9: "LAB", 10: "LAB", 32844: "LogL", 32845: "LogLuv"}
_MAX_ENTRIES, _MAX_VALUES = 4096, 64
_MESSAGE_BYTES = 512
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)  # module, format, va_list


def read_directory(data: bytes, offset: int | None = None) -> Directory:
    """Read the directory at `offset` (None: the first directory). Damaged entries are left out."""
    order = ">" if data.startswith(b"MM") else "<"
    big = data[2:4] in (b"+\0", b"\0+")
    pointer, counted, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    directory: Directory = {}
    try:
        if offset is None:
            (offset,) = struct.unpack_from(order + pointer, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + counted, data, offset)
        start = offset + struct.calcsize(counted)
        for position in range(start, start + size * min(count, _MAX_ENTRIES), size):
            tag, kind, length = struct.unpack_from(f"{order}HH{pointer}", data, position)
            if kind not in _TYPES or not 0 < length <= _MAX_VALUES:
                continue
            layout = f"{order}{length}{_TYPES[kind]}"
            at = position + 4 + struct.calcsize(pointer)
            if struct.calcsize(layout) > struct.calcsize(pointer):
                (at,) = struct.unpack_from(order + pointer, data, at)
            directory[tag] = struct.unpack_from(layout, data, at)
    except (struct.error, OverflowError):  # An offset is after the end of the file.
        pass
    return directory


def is_raw(data: bytes) -> bool:
    """Return whether a TIFF is a raw photograph (DNG, NEF, ARW, PEF …).

    The first picture in such a file is only a preview.
    """
    first = read_directory(data)
    others = (read_directory(data, offset) for offset in first.get(_SUB_DIRECTORIES, ()))
    return (
        data[8:10] == _CR2
        or _DNG_VERSION in first
        or any(_holds_sensor_data(directory) for directory in (first, *others))
    )


def _holds_sensor_data(directory: Directory) -> bool:
    return (
        directory.get(_PHOTOMETRIC, (0,))[0] in _SENSOR_DATA
        or directory.get(_COMPRESSION, (0,))[0] in _RAW_COMPRESSIONS
    )


def unusual(data: bytes) -> str:
    """Describe unusual pixels, as in "5 bands and 16-bit pixels"; return "" if the pixels are usual."""
    directory = read_directory(data)
    bits = directory.get(_BITS, (1,))
    kind, samples = directory.get(_FORMAT, (1,))[0], directory.get(_SAMPLES, (1,))[0]
    color = _COLORS.get(directory.get(_PHOTOMETRIC, (0,))[0], "")
    compression = _COMPRESSIONS.get(directory.get(_COMPRESSION, (1,))[0], "")
    parts = []
    if samples > 4 or (color and samples > 3 + (color == "CMYK")):
        parts.append(f"{samples} bands" + f" ({color} and others)" * bool(color))
    if kind != 1 or len({*bits}) > 1 or bits[0] not in (1, 8) or (color and not parts):
        depth = "/".join(map(str, dict.fromkeys(bits)))
        parts.append(f"{depth}-bit {_FORMATS.get(kind, '')}{color + ' ' * bool(color)}pixels")
    if compression:
        parts.append(f"{compression} compression")
    return " and ".join(parts)


_messages = threading.local()


@functools.cache
def _catch_messages() -> object:
    """Store libtiff's messages for `last_message`; by default, they go to stderr without a file name.

    The handler changes the whole process, so it is set when the first TIFF is opened and not on import. It is set in
    the libtiff that Pillow is linked with. Where the functions of libtiff are not exported (Windows), messages are
    still printed.
    """
    try:
        libtiff = ctypes.CDLL(_imaging.__file__)
        format_into = ctypes.CDLL(None).vsnprintf
        setters = (libtiff.TIFFSetErrorHandler, libtiff.TIFFSetWarningHandler)
    except (AttributeError, OSError, TypeError):
        return None

    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)

    def keep(module: bytes | None, form: bytes, arguments: int | None) -> None:
        buffer = ctypes.create_string_buffer(_MESSAGE_BYTES)
        format_into(buffer, ctypes.c_size_t(_MESSAGE_BYTES), form, ctypes.c_void_p(arguments))
        _messages.message = buffer.value.decode("ascii", "replace").rstrip(".")

    handler = _HANDLER(keep)
    setters[0].argtypes = setters[1].argtypes = [ctypes.c_void_p]
    setters[0](ctypes.cast(handler, ctypes.c_void_p))
    setters[1](None)
    return handler  # The cache keeps a reference, since libtiff calls the handler until the process exits.


def listen() -> None:
    """Clear earlier messages of libtiff in this thread, and stop it from printing messages."""
    _catch_messages()
    _messages.message = ""


def last_message() -> str:
    """Return libtiff's last message in this thread since `listen`; "" if there is none."""
    return str(getattr(_messages, "message", ""))
