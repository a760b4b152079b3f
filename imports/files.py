"""The JSON files in what was given: the file itself, or those in it if it is a ZIP.

What a ZIP packs is unpacked into nameless files, never under a name of its choosing; a ZIP that no
program exports is refused before anything of it is unpacked.
"""

import errno
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from errors import Invalid, disk_full
from imports import pieces

LARGEST_UNPACKED = 4 * 2**30
# Chats pack to a fifth or a tenth; a thousandth is what bombs are made of.
MOST_PACKED = 200
END_RECORD = b"PK\5\6"
END_SIZE, LONGEST_COMMENT = 22, 0xFFFF
# What stands before that record in a file of ZIP's second format, and says the same in more bytes.
LONG_END_RECORD, LONG_END_SIZE = b"PK\6\6", 56
LOCATOR, LOCATOR_SIZE = b"PK\6\7", 20
# OSError and ValueError: a place before the file's beginning, or what bzip2 cannot read.
UNPACKING_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    OSError,
    ValueError,
)
LARGEST_DIRECTORY = 32 * 2**20
OUTSIDE = re.compile(r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)|\0")
ENCRYPTED = 0x1


@dataclass
class JsonFile:
    """A file with JSON in it: its name in the ZIP, None where it was given as it is."""

    name: str | None
    file: IO[bytes]

    @property
    def span(self) -> pieces.Span:
        """All of it."""
        return pieces.start(self.file), self.file.seek(0, os.SEEK_END)


def open_all(file: IO[bytes]) -> Iterator[JsonFile]:
    """The JSON files of what was given, one by one. Invalid where its ZIP is not to be trusted."""
    file.seek(0)
    if file.read(4) not in (b"PK\3\4", END_RECORD):
        yield JsonFile(None, file)
        return
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in _checked(archive.infolist()):
                with tempfile.TemporaryFile() as unpacked:
                    with archive.open(entry) as source:
                        shutil.copyfileobj(source, unpacked, pieces.CHUNK)
                    yield JsonFile(entry.filename, unpacked)
    except UNPACKING_ERRORS as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise disk_full() from None
        raise Invalid("is a ZIP file that cannot be unpacked", field="body") from None


def _check_directory(file: IO[bytes]) -> None:
    """Refuse a list of entries so long that reading it would fill the memory."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_SIZE - LONGEST_COMMENT - LOCATOR_SIZE - LONG_END_SIZE))
    tail = file.read()
    at = tail.rfind(END_RECORD)
    if at < 0 or len(tail) < at + END_SIZE:
        raise Invalid("is a ZIP file that breaks off", field="body")
    (length,) = struct.unpack_from("<L", tail, at + 12)
    long_form = tail[:at][-LONG_END_SIZE - LOCATOR_SIZE :]
    if long_form.startswith(LONG_END_RECORD) and long_form.startswith(LOCATOR, LONG_END_SIZE):
        (length,) = struct.unpack_from("<Q", long_form, 40)
    if length > LARGEST_DIRECTORY:
        raise Invalid("is a ZIP file with too many entries", field="body")


def _checked(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The entries that may hold chats, if none of all is one that no export has."""
    for entry in entries:
        if OUTSIDE.search(entry.orig_filename) or stat.S_ISLNK(entry.external_attr >> 16):
            raise Invalid("is a ZIP file with an entry that leads out of it", field="body")
        if entry.flag_bits & ENCRYPTED:
            raise Invalid("is a ZIP file with a password: unpack it first", field="body")
    wanted = [e for e in entries if e.filename.lower().endswith((".json", ".jsonl"))]
    unpacked = sum(entry.file_size for entry in wanted)
    packed = sum(entry.compress_size for entry in wanted)
    if unpacked > LARGEST_UNPACKED or unpacked > max(packed, 2**20) * MOST_PACKED:
        raise Invalid("is a ZIP file that would unpack to too much", field="body")
    # What names the projects comes before the chats in them: it is smaller.
    return sorted(wanted, key=lambda entry: entry.file_size)
