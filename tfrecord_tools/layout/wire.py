"""Read the fields of a protobuf message without a schema (protobuf.dev/programming-guides/encoding).

`contents` is the fastest. It reads messages that have only length-delimited fields, as this package writes them.
`fields` reads messages of any origin. `span` finds the parts of a message without copying them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

VARINT, DELIMITED, FIXED32 = 0, 2, 5  # Wire types.
MAX_VARINT_BYTES = 10


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Return the value of a varint, below 2**70, and the position after it.

    Raises:
        ValueError: The varint has more than ten bytes, the most that 64 bits need.
        IndexError: The data ends within the varint.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError("a varint of more than ten bytes")


def contents(message: memoryview) -> list[memoryview]:
    """Return the contents of the fields, in order, of a message with length-delimited fields only."""
    parts, position, end = [], 0, len(message)
    while position < end:
        length = message[position + 1]
        if length < 0x80:  # The usual case. It is inlined, since a call would take most of the time.
            position += 2
        else:
            length, position = read_varint(message, position + 1)
        parts.append(message[position : position + length])
        position += length
    return parts


def fields(message: bytes, allowed: Mapping[int, Collection[int]]) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each field. A numeric value stays encoded.

    Args:
        message: Serialized message.
        allowed: Field number -> allowed wire types.

    Raises:
        ValueError, IndexError: The bytes are not a message, or a field is not in `allowed`.
    """
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type not in allowed.get(number, ()):
            raise ValueError(f"field {number} of wire type {wire_type}")
        if wire_type == VARINT:
            _, end = read_varint(message, position)
        elif wire_type == FIXED32:
            end = position + 4
        else:
            length, position = read_varint(message, position)
            end = position + length
        if end > len(message):
            raise ValueError("the message ends within a field")
        yield number, message[position:end]
        position = end


def span(data: bytes, position: int, tag: int, end: int) -> tuple[int, int]:
    """Return start and end of the content of a length-delimited field.

    Args:
        data: Bytes that contain the message.
        position: Start of the field.
        tag: First byte that the field must have.
        end: End of the message.

    Raises:
        ValueError, IndexError: Another field starts at `position`, or the field does not end within the message.
    """
    if data[position] != tag:
        raise ValueError(f"unexpected field tag {data[position]}")
    length = data[position + 1]
    position += 2
    if length > 0x7F:
        length, position = read_varint(data, position - 1)
    if position + length > end:
        raise ValueError("the message ends within a field")
    return position, position + length
