"""What came of a file: what was added, what was there, what was skipped or left out, and why."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from errors import ServiceError
from imports.chats import Chat
from imports.keeping import Kept
from models import Imported, Skipped

# Told how many bytes of how many are done.
Progress = Callable[[int, int], None]

MOST_SKIPPED_TOLD = 1000
LONGEST_SAID = 200
# What may be wrong with one piece of a file, and leaves the others as they are.
PIECE_ERRORS = (ValueError, RecursionError, OverflowError, ServiceError, IntegrityError)


class Results:
    """Counted while a file is taken."""

    def __init__(self) -> None:
        self.added = Counter[str]()
        self.existing = Counter[str]()
        self.left_out = Counter[str]()
        self._skipped: list[Skipped] = []
        self._skipped_count = 0

    def skip(self, kind: str, id_: Any, reason: Exception | str) -> None:
        """Tell of what could not be stored, and why."""
        self._skipped_count += 1
        if len(self._skipped) < MOST_SKIPPED_TOLD:
            known = _sayable(str(id_)) if isinstance(id_, int | str) else None
            self._skipped.append(Skipped(kind=kind, id=known, reason=_sayable(_sentence(reason))))

    def kept(self, chat: Chat, kept: Kept) -> None:
        """Count what was added of a chat."""
        self.added.update(kept._asdict())
        if kept.conversations:
            self.left_out += chat.left_out
        else:
            self.existing["conversations"] += 1

    def told(self) -> Imported:
        return Imported(
            added=dict(+self.added),
            existing=dict(+self.existing),
            left_out=dict(+self.left_out),
            skipped=self._skipped,
            skipped_count=self._skipped_count,
        )


def _sentence(error: Exception | str) -> str:
    """Why, repeating nothing of what was said."""
    if isinstance(error, str):
        return error
    if isinstance(error, ValidationError):
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    if isinstance(error, ServiceError):
        return error.detail
    if isinstance(error, IntegrityError):
        return "It clashes with what is there already"
    if isinstance(error, RecursionError):
        return "It is nested too deeply"
    return "It is not JSON that can be read"


def _sayable(text: str) -> str:
    """Without the lone surrogates that no answer can carry, and not too long."""
    return text[:LONGEST_SAID].encode(errors="replace").decode()
