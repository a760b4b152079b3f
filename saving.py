"""The rows of replies: written while the text grows and at its end, and read again.

Each function is a piece of work for the database: run whole, on a session that it is given.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import Update, bindparam, update
from sqlmodel import Session, col, select

from db import require
from errors import NotFound
from fields import now
from models import Conversation, Draft, Message
from reply import Outcome, Reply
from statements import Statement

Table = type[Message] | type[Draft]
TEXTS = ("content", "reasoning", "extra", "updated_at")
RESULT = ("status", "finish_reason", "usage", "cost", "error", "error_status", "omitted")


def _update(table: Table, *names: str) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return update(table).where(col(table.id) == bindparam("id_")).values(values)


SAVE = {
    table: Statement(_update(table, *TEXTS).where(col(table.status) == "streaming"))
    for table in (Message, Draft)
}
END = {table: Statement(_update(table, *TEXTS, *RESULT)) for table in (Message, Draft)}


def save(session: Session, replies: list[Reply]) -> None:
    """Write the texts of growing replies; one that has ended meanwhile stays as it is."""
    moment = now()
    grown = defaultdict[Table, list[dict[str, Any]]](list)
    for reply in replies:
        row = {"id_": reply.message_id, "updated_at": moment, **_texts(reply)}
        grown[reply.table].append(row)
    for table, rows in grown.items():
        SAVE[table].run_many(session, rows)


def end(session: Session, reply: Reply, outcome: Outcome) -> None:
    """Write how a reply ended."""
    END[reply.table].run(
        session,
        id_=reply.message_id,
        updated_at=now(),
        **_texts(reply),
        status=outcome.status,
        finish_reason=outcome.finish_reason,
        usage=outcome.usage,
        cost=outcome.cost,
        error=outcome.error,
        error_status=outcome.error_status,
        omitted=reply.omitted,
    )


def repair(session: Session) -> None:
    """No reply outlives the process that was writing it."""
    cut_off = col(Message.status) == "streaming"
    changed = col(Conversation.id).in_(select(Message.conversation_id).where(cut_off))
    moment, error = now(), "The service ended before the reply did"
    session.execute(update(Conversation).where(changed).values(updated_at=moment))
    for table in (Message, Draft):
        rows = update(table).where(col(table.status) == "streaming")
        session.execute(
            rows.values(status="interrupted", error=error, error_status=503, updated_at=moment)
        )


def restored(row: Message) -> Reply:
    """A reply in memory again, as it ended."""
    reply = Reply(row.conversation_id)
    reply.restore(row)
    return reply


def find(session: Session, message_id: int) -> Message:
    """The row of a reply, or NotFound."""
    message = require(session, Message, message_id)
    if message.role != "assistant":
        raise NotFound("Message")
    return message


def known(session: Session, session_id: str) -> bool:
    """Whether there was ever a reply with this handle."""
    queries = (select(table.id).where(table.session_id == session_id) for table in (Message, Draft))
    return any(session.exec(query).first() is not None for query in queries)


def _texts(reply: Reply) -> dict[str, Any]:
    calls = [{k: v for k, v in call.items() if k != "index"} for call in reply.tool_calls]
    return {
        "content": reply.text(),
        "reasoning": reply.text(reasoning=True) or None,
        "extra": {"tool_calls": calls} if calls else None,
    }
