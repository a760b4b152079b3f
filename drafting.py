"""Documents made from chats: a category's template, filled in, is asked of a model.

The answer grows in a draft, with all that is promised of a turn, and becomes a version of the
document only when it is whole.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from sqlmodel import Session, col, select

import history
import versions
from db import require
from errors import Conflict, NotFound
from fields import now
from models import Category, Conversation, Document, Draft, Generate, Message, Project
from providers import Providers
from questions import Asked, Question
from reply import Outcome, Reply

PLACEHOLDER = re.compile(r"\{doc\}|\{env\}")
LONGEST_NAME = 255
NAMELESS = "对话"
CUT_SHORT = ("length", "content_filter")
COLUMNS = (Message.id, Message.role, Message.content, Message.status)


@dataclass(frozen=True, kw_only=True)
class Drafting(Question):
    """A document to be made from a conversation; any number may be in the making."""

    body: Generate
    slot_id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def slot(self) -> str:
        return self.slot_id

    def begin(self, session: Session, reply: Reply, providers: Providers) -> Asked:
        conversation = require(session, Conversation, self.conversation_id)
        category = require(session, Category, self.body.category_id)
        model = self.body.model or category.summary_model
        target = self.target(session, conversation, model, providers)
        messages = _source(session, conversation, self.body.message_ids)
        draft = Draft(
            project_id=conversation.project_id,
            category_id=self.body.category_id,
            filename=self.body.filename or _filename(category, conversation),
            conversation_id=conversation.id,
            message_ids=[message.id for message in messages],
            template_hash=hashlib.sha256(category.prompt_template.encode()).hexdigest(),
            model=target.model,
            provider=target.provider,
            session_id=reply.session_id,
        )
        session.add(draft)
        session.flush()
        assert draft.id is not None
        reply.table, reply.message_id, reply.model = Draft, draft.id, target.model
        project = session.get(Project, conversation.project_id)
        environment = project.dev_environment if project else None
        prompt = fill(category.prompt_template, render(messages), environment or "")
        return Asked(target, {"messages": [{"role": "user", "content": prompt}]})

    def judge(self, reply: Reply, outcome: Outcome) -> Outcome:
        """An answer that was cut short, or says nothing, is no whole document."""
        if outcome.status != "complete":
            return outcome
        if outcome.finish_reason in CUT_SHORT or not reply.text().strip():
            error = f"The model ended before the document was whole ({outcome.finish_reason})"
            return replace(outcome, status="interrupted", error=error, error_status=502)
        return outcome

    def finish(self, session: Session, reply: Reply, outcome: Outcome) -> None:
        """A whole answer becomes the next version; anything less stays a draft."""
        draft = session.get(Draft, reply.message_id)
        if outcome.status != "complete" or draft is None:
            return
        document = Document(
            project_id=draft.project_id,
            category_id=draft.category_id,
            filename=draft.filename,
            content=reply.text(),
            source="chat",
            conversation_id=draft.conversation_id,
            message_ids=draft.message_ids,
            read_at=draft.created_time,
            template_hash=draft.template_hash,
            model=draft.model,
            usage=outcome.usage,
        )
        draft.document_id = versions.add(session, document).id
        draft.content, draft.reasoning = "", None  # kept once, in the document


def stored_document(session: Session, reply: Reply) -> Document:
    """The version that a finished draft became."""
    draft = require(session, Draft, reply.message_id)
    return require(session, Document, draft.document_id)


def unfinished(session: Session) -> Sequence[Draft]:
    """Drafts that have not become a version, the newest first."""
    query = select(Draft).where(col(Draft.document_id).is_(None))
    return session.exec(query.order_by(col(Draft.id).desc())).all()


def discard(session: Session, draft_id: int) -> None:
    draft = require(session, Draft, draft_id)
    if draft.document_id is not None:
        raise NotFound("Draft")
    if draft.status == "streaming":
        raise Conflict("The draft is still being written: stop it first, or wait for its end")
    session.delete(draft)


def fill(template: str, chat: str, environment: str) -> str:
    """The template with its placeholders replaced once, literally; without `{doc}`, the chat last.

    What is put in is text: braces in it mean nothing.
    """
    if "{doc}" not in template:
        template = f"{template.rstrip()}\n\n{{doc}}".lstrip()
    values = {"{doc}": chat, "{env}": environment}
    return PLACEHOLDER.sub(lambda match: values[match[0]], template)


def render(messages: Sequence[Any]) -> str:
    """Messages as a text: who speaks, then what is said."""
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)


def _source(session: Session, conversation: Conversation, wanted: list[int] | None) -> list[Any]:
    """The messages chosen, in their order; by default all that history shows."""
    if wanted is None:
        found: Sequence[Any] = history.branch(session, conversation.active_message_id, *COLUMNS)
    else:
        for message_id in wanted:
            history.require_message(session, conversation, message_id)
        query = select(*map(col, COLUMNS)).where(col(Message.id).in_(wanted))
        found = session.execute(query.order_by(col(Message.id))).all()
    messages = [row for row in found if row.content and row.status != "streaming"]
    if not messages:
        raise Conflict("There is no message yet to make a document from")
    return messages


def _filename(category: Category, conversation: Conversation) -> str:
    """Category, conversation and date, without what a file's name cannot have."""
    ending = f" {now()[:10]}.md"
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]', " ", f"{category.name} {conversation.name or NAMELESS}")
    return " ".join(name.split())[: LONGEST_NAME - len(ending)] + ending
