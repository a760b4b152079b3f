"""A file is taken: opened, recognised by what is in it, and stored chat by chat.

Reading is done on threads, a chat at a time, so that the memory it takes is that of the longest
chat and the service goes on answering; each chat is a transaction of its own.
"""

import asyncio
import json
from collections.abc import Iterator
from types import ModuleType
from typing import IO, Any

from db import Database
from errors import Invalid
from imports import chatgpt, claude, keeping, librechat, open_webui, own, pieces
from imports.chats import Chat
from imports.files import JsonFile, open_all
from imports.results import PIECE_ERRORS, Progress, Results
from imports.rows import Archive
from models import Imported

PROGRAMS: tuple[ModuleType, ...] = (chatgpt, claude, open_webui, librechat)
LARGEST_PIECE = 64 * 2**20
# A file with more pieces that are no chats is not read on: it is another one, or there is no end.
MOST_UNKNOWN = 100_000
UNKNOWN = "must be a whole export of this program, ChatGPT, Claude, Open WebUI or LibreChat"


async def take(db: Database, file: IO[bytes], progress: Progress | None = None) -> Imported:
    """Store what a file has and the database has not; Invalid where it is no export that is known.

    `progress` is told how many bytes of how many are done, anew for each file in a ZIP.
    """
    results, told = Results(), progress or _nobody
    files = open_all(file)
    names: dict[str, str] = {}
    taken = False
    while found := await asyncio.to_thread(next, files, None):
        if archive := await asyncio.to_thread(Archive.open, found):
            await own.take(db, archive, results, told)
            taken = True
        else:
            reader = _Reader(found, names, results)
            await _take_chats(db, reader, results, told)
            taken |= reader.known > 0
    if not taken:
        raise Invalid(UNKNOWN, field="body")
    return results.told()


async def _take_chats(db: Database, reader: "_Reader", results: Results, told: Progress) -> None:
    chats = reader.chats()
    total = reader.file.span[1]
    while found := await asyncio.to_thread(next, chats, None):
        chat, done = found
        try:
            results.kept(chat, await db.write(keeping.keep, chat))
        except PIECE_ERRORS as error:
            results.skip("conversations", chat.id, error)
        told(done, total)


class _Reader:
    """The chats of one JSON file; `known` counts those of a program that is known."""

    def __init__(self, file: JsonFile, names: dict[str, str], results: Results) -> None:
        self.file = file
        self.known = 0
        self._unknown = 0
        self._unreadable = 0
        # What the projects are called that chats belong to: another file of the ZIP tells.
        self._names = names
        self._results = results

    def chats(self) -> Iterator[tuple[Chat, int]]:
        """Each chat that can be read, and where in the file it ends; at last, what was wrong."""
        ending = None
        try:
            for span in pieces.items(self.file.file, self.file.span):
                if chat := self._chat(span):
                    yield chat, span[1]
                if self._unknown + self._unreadable > MOST_UNKNOWN:
                    ending = "It has too many pieces that are no chats: it was not read on"
                    break
        except pieces.BrokenJson:
            ending = "It breaks off: its last piece was not read"
        if not self.known:
            ending = "It holds no chats of a program that is known"
        elif self._unknown:
            ending = ending or f"Of its pieces {self._unknown} are no chats"
        # A file that was given as it is and holds nothing is refused as a whole.
        if ending and (self.known or self.file.name):
            self._results.skip("files", self.file.name, ending)

    def _chat(self, span: pieces.Span) -> Chat | None:
        if span[1] - span[0] > LARGEST_PIECE:
            self._results.skip("conversations", None, "It is larger than 64 MB")
            return None
        item = None
        try:
            if data := pieces.read(self.file.file, span):
                item = json.loads(data)
                return self._recognised(item)
        except PIECE_ERRORS as error:
            self._unreadable += 1
            self._results.skip("conversations", _id(item), error)
        return None

    def _recognised(self, item: Any) -> Chat | None:
        if isinstance(item, dict):
            for program in PROGRAMS:
                if program.recognises(item):
                    self.known += 1
                    chat: Chat = program.read(item)
                    chat.project = self._names.get(chat.project or "", chat.project)
                    return chat
            if named := claude.project(item, self._results.left_out):
                self._names.update(named)
                return None
        self._unknown += 1
        return None


def _id(item: Any) -> Any:
    """What a piece that is skipped is called in its file."""
    found = item if isinstance(item, dict) else {}
    names = ("conversation_id", "conversationId", "uuid", "id")
    return next((found[name] for name in names if found.get(name)), None)


def _nobody(done: int, total: int) -> None:
    """Progress that is shown to nobody."""
