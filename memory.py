"""Which conversation a growing history belongs to.

Clients of OpenAI's API send all of a conversation with every request. What they send is laid along
the trees that are stored: where a branch begins with the same messages the new ones hang below it,
and where the history was edited, they branch off from its last message that is the same.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, TextClause, func, literal_column, select, text
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

import history
from models import Conversation, Message

MOST_CANDIDATES = 20
COLUMNS = (Message.id, Message.role, Message.content, Message.parts, Message.extra)
BLANKS = " \t\n\v\f\r"
# Word for word as the indexes of `Message` have them, without which SQLite would not use those.
FIRST_TEXT: ColumnElement[str] = literal_column(
    "substr(trim(message.content, char(32, 9, 10, 11, 12, 13)), 1, 64)"
)
FIRST_CALL: ColumnElement[str] = literal_column("json_extract(message.extra, '$.tool_calls[0].id')")
IS_REPLY = text("message.role = 'assistant'")
HAS_EXTRA = text("message.extra IS NOT NULL")
QUESTION = aliased(Message)
# What OpenAI's newer models call the system role.
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Spoken:
    """A message as a client sent it, as the columns it is stored in."""

    role: str
    content: str
    parts: list[dict[str, Any]] | None
    extra: dict[str, Any] | None

    def same(self, row: Row[Any]) -> bool:
        """Whether that stored message is this one.

        Blanks around a text do not count, nor in how many parts it comes. Of a reply only its text
        and its tool calls count: clients send it back with more than was stored, or with less.
        """
        return bool(
            self.role == row.role
            and self.content.strip(BLANKS) == row.content.strip(BLANKS)
            and _beyond_text(self.parts) == _beyond_text(row.parts)
            and (
                _calls(self.extra) == _calls(row.extra)
                if self.role == "assistant"
                else self.extra == row.extra
            )
        )


@dataclass(frozen=True)
class Place:
    """Where a history goes on: below `parent_id`, with the messages that are not stored yet."""

    conversation_id: str | None
    parent_id: int | None
    new: list[Spoken]


def read(messages: Sequence[dict[str, Any]]) -> tuple[str | None, list[Spoken]]:
    """The system prompt that stands first, and what was said after it."""
    texts: list[str] = []
    rest = list(messages)
    while rest and rest[0].get("role") in SYSTEM_ROLES:
        texts.append(_spoken(rest.pop(0)).content)
    said = [_spoken(message) for message in rest]
    return "\n\n".join(texts) or None, [s for s in said if s.content or s.parts or s.extra]


def _spoken(message: dict[str, Any]) -> Spoken:
    content, parts = message.get("content") or message.get("refusal"), None
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        content = "\n".join(
            str(part.get("text", "")) for part in parts if part.get("type") == "text"
        )
    role = str(message.get("role"))
    extra = {k: v for k, v in message.items() if k not in ("role", "content") and v is not None}
    return Spoken(
        role="system" if role in SYSTEM_ROLES else role,
        content=content if isinstance(content, str) else "",
        parts=parts,
        extra=extra or None,
    )


def _beyond_text(parts: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [part for part in parts or [] if part.get("type") != "text"]


def _calls(extra: dict[str, Any] | None) -> list[Any]:
    """A reply's tool calls, as far as clients send them back: arguments are the same JSON."""
    calls = (extra or {}).get("tool_calls")
    return [_call(call) for call in calls] if isinstance(calls, list) else []


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments: Any = function.get("arguments")
    with suppress(ValueError, TypeError):
        arguments = json.loads(arguments)
    return (call.get("id"), function.get("name"), arguments)


def place(
    session: Session,
    prompt: str | None,
    spoken: list[Spoken],
    conversation: Conversation | None,
) -> Place:
    """Where these messages belong: in the conversation given, else in one that begins with them.

    Of several that do, one with the same system prompt is taken first.
    """
    if known := _known(session, prompt, spoken, conversation):
        row, length = known
        parent_id, new = _follow(session, row.id, spoken[length:])
        return Place(row.conversation_id, parent_id, new)
    if refused := _refused_before(session, spoken, conversation):
        return refused
    if conversation is None:
        return Place(None, None, spoken)
    if not any(said.role == "assistant" for said in spoken):  # only what is new was sent
        return Place(conversation.id, conversation.active_message_id, spoken)
    parent_id, new = _follow(session, None, spoken, conversation.id)
    return Place(conversation.id, parent_id, new)


def _refused_before(
    session: Session, spoken: list[Spoken], conversation: Conversation | None
) -> Place | None:
    """Where the very same was asked and refused a moment ago: clients repeat what was refused."""
    query = select(col(Message.parent_id), col(Message.conversation_id)).where(
        IS_REPLY, FIRST_TEXT.op("=")(""), col(Message.status) == "error"
    )
    if conversation is not None:
        query = query.where(col(Message.conversation_id) == conversation.id)
    newest_first = query.order_by(col(Message.id).desc()).limit(MOST_CANDIDATES)
    for parent_id, conversation_id in session.execute(newest_first):
        if _told(session, parent_id, spoken):
            return Place(conversation_id, parent_id, [])
    return None


def _told(session: Session, leaf: int | None, spoken: list[Spoken]) -> bool:
    """Whether the branch down to `leaf` says just this; replies that say nothing do not count."""
    branch = history.branch(session, leaf, *COLUMNS)
    told = [node for node in branch if node.content or node.parts or node.extra]
    return len(told) == len(spoken) and all(
        said.same(node) for said, node in zip(spoken, told, strict=True)
    )


def _known(
    session: Session, prompt: str | None, spoken: list[Spoken], conversation: Conversation | None
) -> tuple[Row[Any], int] | None:
    """The stored reply that ends the longest branch which the messages begin with; its length.

    Only replies are looked for: that two conversations begin with the same question says nothing.
    Whole branches are read of few candidates only, those that answer the same question.
    """
    tries = MOST_CANDIDATES
    for index in range(len(spoken) - 1, 0, -1):
        found = _looks_like(spoken[index])
        if found is None:
            continue
        question = func.trim(col(QUESTION.content), func.char(*map(ord, BLANKS)))
        query = (
            select(col(Message.id), col(Message.conversation_id))
            .join(QUESTION, col(QUESTION.id) == col(Message.parent_id))
            .join(Conversation, col(Conversation.id) == col(Message.conversation_id))
            .where(*found, question == spoken[index - 1].content.strip(BLANKS))
            .order_by((col(Conversation.system_prompt).is_(prompt)).desc(), col(Message.id).desc())
        )
        if conversation is not None:
            query = query.where(col(Message.conversation_id) == conversation.id)
        for row in session.execute(query.limit(tries)):
            if _told(session, row.id, spoken[: index + 1]):
                return row, index + 1
            tries -= 1
        if tries <= 0:
            break
    return None


def _looks_like(spoken: Spoken) -> tuple[TextClause, ColumnElement[bool]] | None:
    """A condition, answered by an index, that rows of this reply meet; None if it is no reply."""
    if spoken.role != "assistant":
        return None
    calls = (spoken.extra or {}).get("tool_calls")
    if isinstance(calls, list) and calls and isinstance(calls[0], dict):
        return (HAS_EXTRA, FIRST_CALL.op("=")(str(calls[0].get("id"))))
    said = spoken.content.strip(BLANKS)
    return (IS_REPLY, FIRST_TEXT.op("=")(said[:64])) if said else None


def _follow(
    session: Session, parent_id: int | None, spoken: list[Spoken], conversation_id: str = ""
) -> tuple[int | None, list[Spoken]]:
    """Go down from a message as far as those below it are the same; the last one, and the rest."""
    while spoken:
        below = select(*map(col, COLUMNS)).where(col(Message.parent_id) == parent_id)
        if parent_id is None:
            below = below.where(col(Message.conversation_id) == conversation_id)
        rows = session.execute(below.order_by(col(Message.id).desc()))
        same = next((row.id for row in rows if spoken[0].same(row)), None)
        if same is None:
            break
        parent_id, spoken = same, spoken[1:]
    return parent_id, spoken
