"""A JSON file of any size, read piece by piece: where its values begin and end.

Only the piece that is wanted is ever decoded. A streaming JSON library was tried instead: it took
gigabytes for a hundred thousand brackets, gave `?` for a lone surrogate, and one number too large
for it ended the file.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

CHUNK = 1 << 18
# To the next sign that matters, over whole strings; with the commas and colons, or without them.
NEAR = re.compile(rb'(?:[^"{}\[\],:]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.S)
DEEP = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.S)
STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.S)
# No object whose members are wanted one by one has more, or longer names.
MOST_MEMBERS, LONGEST_NAME = 1000, 1000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Span = tuple[int, int]


class BrokenJson(ValueError):
    """The file ends in the middle, or closes what it has not opened."""


def items(file: IO[bytes], span: Span) -> Iterator[Span]:
    """Where the values of this part of a file are: those in its arrays, and its objects.

    So an array of objects and a file with an object a line give the same. BrokenJson where the
    part breaks off; what came before it has been given.
    """
    begin, within = span[0], 0
    for at, sign, depth in _signs(file, span):
        if sign == b"[" and depth == 0:
            begin, within = at + 1, 1
        elif sign == b"," and depth == within == 1:
            yield begin, at
            begin = at + 1
        elif sign in b"]}" and depth == 1:
            yield begin, at + (within == 0)
            begin, within = at + 1, 0


def members(file: IO[bytes], span: Span) -> dict[str, Span]:
    """Where the values of an object are, by their names.

    BrokenJson where it breaks off, has far too many, or is not all there is.
    """
    found: dict[str, Span] = {}
    begin, name = span[0], None
    for at, sign, depth in _signs(file, span):
        if sign == b"{" and depth == 0 and name is None and not found:
            begin = at + 1
        elif depth == 0 or len(found) > MOST_MEMBERS:
            raise BrokenJson
        elif sign == b":" and depth == 1:
            if at - begin > LONGEST_NAME:
                raise BrokenJson
            name, begin = str(decode(file, (begin, at))), at + 1
        elif sign in b",}" and depth == 1:
            if name is not None:
                found[name] = begin, at
            name, begin = None, at + 1
    return found


def decode(file: IO[bytes], span: Span) -> Any:
    """The value at this place. ValueError or RecursionError where it cannot be read."""
    return json.loads(read(file, span))


def read(file: IO[bytes], span: Span) -> bytes:
    """The bytes of a place, without the blanks around them."""
    file.seek(span[0])
    return file.read(span[1] - span[0]).strip()


def start(file: IO[bytes]) -> int:
    """Where the text begins: behind the mark that some editors put before it."""
    file.seek(0)
    return len(BYTE_ORDER_MARK) if file.read(3) == BYTE_ORDER_MARK else 0


def _signs(file: IO[bytes], span: Span) -> Iterator[tuple[int, bytes, int]]:
    """Brackets and braces outside of strings, to the depth of 1 commas and colons too.

    Each with its place and how many are open where it stands.
    """
    offset, end = span
    depth, in_string = 0, False
    while offset < end:
        file.seek(offset)
        chunk = file.read(min(CHUNK, end - offset))
        at = 0
        while at < len(chunk):
            at = _stop(STRING if in_string else NEAR if depth <= 1 else DEEP, chunk, at)
            sign = chunk[at : at + 1]
            if sign == b'"':
                in_string = not in_string
            elif in_string:  # to be continued in the next chunk, from an escape's first half on
                break
            elif sign:
                yield offset + at, sign, depth
                depth += (sign in b"[{") - (sign in b"]}")
                if depth < 0:
                    raise BrokenJson
            at += 1
        if at == 0:
            break
        offset += min(at, len(chunk))
    if depth or in_string:
        raise BrokenJson


def _stop(pattern: re.Pattern[bytes], chunk: bytes, at: int) -> int:
    match = pattern.match(chunk, at)
    return match.end() if match else at
