"""A reply while it is being written, in memory: it grows, is followed, and ends.

The text itself is the log: a follower is nothing but a position in it, so any number may come, fall
behind, leave and come back, and none costs more than its position.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from itertools import compress
from operator import not_
from typing import Any
from uuid import uuid4

from deltas import Delta, merge_tool_calls
from errors import UpstreamError
from fields import number
from models import Draft, Message

# A follower that fell behind catches up in pieces of this many characters.
PIECE_LENGTH = 65_536


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reply ended; `error` and `error_status` say why where it did not end well."""

    status: str
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    error: str | None = None
    error_status: int | None = None

    @property
    def cost(self) -> float | None:
        """The price in USD, where the provider tells it as OpenRouter does."""
        return number((self.usage or {}).get("cost"))


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's key for a request, and a hash of what it asks."""

    key: str
    hash: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a reply, of one kind: its text, or the model's reasoning."""

    text: str
    is_reasoning: bool = False


@dataclass(eq=False)
class Reply:
    """A reply in memory, most often while it is written; followers see every piece as it comes."""

    conversation_id: str
    idempotency: Idempotency | None = None
    session_id: str = field(default_factory=lambda: uuid4().hex)
    user_message_id: int = 0
    message_id: int = 0
    model: str = ""
    # Where the reply is stored, row `message_id` of it.
    table: type[Message] | type[Draft] = Message
    # How many messages were left out because the conversation was too long for the model.
    omitted: int | None = None
    # The text in pieces, and which are reasoning. Two lists of what the garbage collector need not
    # look at: objects, by the hundred thousand, would hold up every stream when it does.
    pieces: list[str] = field(default_factory=list)
    reasoned: list[bool] = field(default_factory=list)
    saved: int = 0
    length: int = 0
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    # The headers of the provider's answer that its callers may read.
    headers: Mapping[str, str] = field(default_factory=dict)
    # What the provider sent, where a follower wants it byte for byte.
    raw: list[bytes] | None = None
    outcome: Outcome | None = None
    # Set once the provider has accepted or refused; a refusal is an error of the request itself.
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: Exception | None = None
    task: asyncio.Task[None] | None = None
    asking: bool = False
    ending: Outcome | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def restore(self, row: Message) -> None:
        """Become what is stored of a reply that has ended."""
        assert row.id is not None
        self.message_id, self.user_message_id = row.id, row.parent_id or 0
        self.session_id, self.model = row.session_id or "", row.model or ""
        self.omitted = row.omitted
        self._keep(row.reasoning or "", is_reasoning=True)
        self._keep(row.content)
        if row.status == "error":
            self.refusal = UpstreamError(row.error or "", status=row.error_status)
        self.close(Outcome(row.status, row.finish_reason, row.usage, row.error, row.error_status))

    def text(self, *, reasoning: bool = False) -> str:
        chosen = self.reasoned if reasoning else map(not_, self.reasoned)
        return "".join(compress(self.pieces, chosen))

    def add(self, delta: Delta) -> None:
        self._keep(delta.reasoning, is_reasoning=True)
        self._keep(delta.text)
        self.length += len(delta.text) + len(delta.reasoning)
        self.finish_reason = delta.finish_reason or self.finish_reason
        self.usage = delta.usage or self.usage
        if delta.tool_calls:
            self.length += sum(len(str(call)) for call in delta.tool_calls)
            merge_tool_calls(self.tool_calls, delta.tool_calls)
        if self.raw is not None:
            self.raw.append(delta.raw)
            self.length += len(delta.raw)
        self._wake()

    def close(self, outcome: Outcome) -> None:
        """Tell the followers how it ended."""
        self.outcome = self.outcome or outcome
        self.begun.set()
        self._wake()

    def end(self, outcome: Outcome) -> None:
        """Ask the turn's task to stop asking; it stores the text so far and ends like this."""
        self.ending = self.ending or outcome
        if self.asking and self.task:
            self.task.cancel()

    async def follow(self, after: int = 0) -> AsyncIterator[Piece]:
        """Everything beyond the first `after` characters of the text, then what comes, to the end.

        Reasoning that came before those characters is passed over with them.
        """
        index = 0
        while True:
            while index < len(self.pieces):
                piece, index = self._joined(index)
                if after and piece.is_reasoning:
                    continue
                skipped = min(after, len(piece.text))
                after -= skipped
                if skipped < len(piece.text):
                    yield Piece(piece.text[skipped:], piece.is_reasoning) if skipped else piece
            if self.outcome:
                return
            await self._changed.wait()

    async def follow_raw(self) -> AsyncIterator[bytes]:
        """What the provider sent, as it comes, in whole events."""
        assert self.raw is not None, "asked for with the question"
        raw, index = self.raw, 0
        while True:
            if index < len(raw):
                data, index = b"".join(raw[index:]), len(raw)
                yield data
            elif self.outcome:
                return
            else:
                await self._changed.wait()

    async def accepted(self) -> None:
        """Wait until the provider has accepted; raises what it refused with."""
        if self.outcome is None:
            await self.begun.wait()
        if self.refusal:
            raise self.refusal

    async def finished(self) -> Outcome:
        while self.outcome is None:
            await self._changed.wait()
        return self.outcome

    def _keep(self, text: str, *, is_reasoning: bool = False) -> None:
        if text:
            self.pieces.append(text)
            self.reasoned.append(is_reasoning)

    def _joined(self, start: int) -> tuple[Piece, int]:
        """What is at `start`, joined with the pieces of its kind that follow; the next index."""
        kind, length, index = self.reasoned[start], 0, start
        while index < len(self.pieces) and length < PIECE_LENGTH and self.reasoned[index] == kind:
            length += len(self.pieces[index])
            index += 1
        return Piece("".join(self.pieces[start:index]), kind), index

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
