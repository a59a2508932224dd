"""Protobuf's wire format: the fields of a message, read without a schema (protobuf.dev/programming-guides/encoding).

`contents` is for messages as this package writes them and is the fastest: reading a record spends its time there.
`fields` reads messages of any origin, `span` finds the parts of one without copying them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

VARINT, DELIMITED, FIXED32 = 0, 2, 5  # Wire types.
MAX_VARINT_BYTES = 10


def read_varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """Returns the value, below 2**70, and the position behind it.

    Raises:
        ValueError: It is longer than the ten bytes that 64 bits need.
        IndexError: The data ends within it.
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
    """Return the contents of a message whose fields are all delimited, in order; their numbers are not looked at."""
    found, position, end = [], 0, len(message)
    while position < end:
        length = message[position + 1]
        if length < 0x80:  # The most, and a call costs more than all else here.
            position += 2
        else:
            length, position = read_varint(message, position + 1)
        found.append(message[position : position + length])
        position += length
    return found


def fields(message: bytes, allowed: Mapping[int, Collection[int]]) -> Iterator[tuple[int, bytes]]:
    """Yields number and content of each field; the content of a number is its bytes as they stand.

    Raises:
        ValueError, IndexError: It is no message, or has another field than `allowed`: number -> wire types.
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
            raise ValueError("it ends within a field")
        yield number, message[position:end]
        position = end


def span(data: bytes, position: int, tag: int, end: int) -> tuple[int, int]:
    """Return where the content of a delimited field starts and ends.

    Args:
        data: The message.
        position: Where the field begins.
        tag: What the field must begin with.
        end: Where the message ends.

    Raises:
        ValueError, IndexError: Another field begins there, or it does not end within the message.
    """
    if data[position] != tag:
        raise ValueError(f"a field {data[position]}")
    length = data[position + 1]
    position += 2
    if length > 0x7F:
        length, position = read_varint(data, position - 1)
    if position + length > end:
        raise ValueError("it ends within a field")
    return position, position + length
