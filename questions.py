"""What is asked: stored first, then composed for the provider.

A question knows how to begin its turn in one transaction: it stores what belongs to it and an empty
reply, and says what the provider is to be asked. Or, where its idempotency key has been used, it
finds the turn that began with it.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import SecretStr
from sqlmodel import Session, col, select

import echo
import history
import memory
import references
from context import Prompt, compose
from db import require
from errors import Invalid
from history import node
from models import Conversation, Document, Message, MessageCreate, Project, Regenerate
from providers import Providers, Target
from reply import Idempotency, Outcome, Reply


@dataclass(frozen=True, slots=True)
class Asked:
    """What a provider is asked: a chat completion's body, ours or (`faithful`) the caller's own."""

    target: Target
    body: dict[str, Any]
    faithful: bool = False


@dataclass(frozen=True)
class Question(ABC):
    """Something to be answered in a conversation, with the key that the caller sent."""

    conversation_id: str
    bearer: SecretStr | None
    idempotency: Idempotency | None = None

    @property
    def slot(self) -> str:
        """What only one running turn may have at a time: the conversation."""
        return self.conversation_id

    @abstractmethod
    def begin(self, session: Session, reply: Reply, providers: Providers) -> Asked | Message:
        """Store the question and an empty reply; or find the reply that the key began before."""

    def judge(self, reply: Reply, outcome: Outcome) -> Outcome:
        """How the reply ended, for this question's purpose."""
        return outcome

    def finish(self, session: Session, reply: Reply, outcome: Outcome) -> None:
        """What the end of the reply brings about, in the transaction that stores it."""
        history.touch(session, self.conversation_id)

    def repeats(self, other: Idempotency | None) -> bool:
        """Whether that request is this one. Invalid where only the key is the same."""
        mine = self.idempotency
        if mine is None or other is None or mine.key != other.key:
            return False
        if mine.hash != other.hash:
            raise Invalid("was used for another request", field="Idempotency-Key")
        return True

    def answered(self, session: Session) -> Message | None:
        """The reply that this question's key began, if it began one."""
        if self.idempotency is None:
            return None
        first = find(session, self.conversation_id, self.idempotency)
        if first is None:
            return None
        query = select(Message).where(Message.parent_id == first.id, Message.role == "assistant")
        row = session.exec(query.order_by(col(Message.id))).first()
        if row is None:
            raise Invalid("its reply has been deleted", field="Idempotency-Key")
        return row

    def target(
        self, session: Session, conversation: Conversation, model: str | None, providers: Providers
    ) -> Target:
        """Where to ask: the model given, else the conversation's, else its project's."""
        name = model or conversation.model
        if name is None and conversation.project_id:
            name = require(session, Project, conversation.project_id).llm_model
        return providers.resolve(name, self.bearer)


@dataclass(frozen=True, kw_only=True)
class Say(Question):
    """A new message of the user's."""

    body: MessageCreate

    def begin(self, session: Session, reply: Reply, providers: Providers) -> Asked | Message:
        conversation = history.head(session, self.conversation_id)
        if answered := self.answered(session):
            return answered
        body = self.body
        for document_id in body.documents:
            require(session, Document, document_id)
        target = self.target(session, conversation, body.model, providers)
        extras = {"documents", "system_prompt_append", "options"}
        request = body.model_dump(include=extras, exclude_defaults=True)
        reply.user_message_id = history.append(
            session,
            self.conversation_id,
            history.parent(session, conversation, body.parent_id),
            role="user",
            request=request or None,
            **history.content_columns(body.content),
            **columns(self.idempotency),
        )
        prompt = compose_for(session, conversation, reply.user_message_id, request)
        add_reply(session, self.conversation_id, reply, target)
        return Asked(target, {**body.options, "messages": prompt})


@dataclass(frozen=True, kw_only=True)
class AskAgain(Question):
    """Another reply to a message that has one, or has lost it."""

    message_id: int
    body: Regenerate

    def begin(self, session: Session, reply: Reply, providers: Providers) -> Asked:
        conversation = history.head(session, self.conversation_id)
        message = history.require_message(session, conversation, self.message_id)
        model = self.body.model
        if message.role == "assistant":
            model = model or _model_of(message)
            message = history.require_message(session, conversation, message.parent_id or 0)
        request = message.request or {}
        target = self.target(session, conversation, model, providers)
        assert message.id is not None
        reply.user_message_id = message.id
        prompt = compose_for(session, conversation, message.id, request)
        add_reply(session, self.conversation_id, reply, target)
        options = self.body.options
        if options is None:
            options = request.get("options", {})
        return Asked(target, {**options, "messages": prompt})


@dataclass(frozen=True, kw_only=True)
class Completion(Question):
    """A chat completion that is kept: the caller's own body, of which only the end is new."""

    body: dict[str, Any]
    is_new: bool

    def begin(self, session: Session, reply: Reply, providers: Providers) -> Asked:
        if self.is_new:
            session.add(Conversation(id=self.conversation_id))
            session.flush()
        conversation = require(session, Conversation, self.conversation_id)
        prompt, spoken = memory.read(self.body["messages"])
        target = self.target(session, conversation, self.body.get("model"), providers)
        found = memory.place(session, prompt, spoken, conversation)
        parent_id = found.parent_id
        for message in found.new:
            parent_id = history.append(session, self.conversation_id, parent_id, **asdict(message))
        conversation.system_prompt = prompt or conversation.system_prompt
        reply.user_message_id = parent_id or 0
        reply.raw = []
        add_reply(session, self.conversation_id, reply, target)
        return Asked(target, self.body, faithful=True)


def compose_for(
    session: Session, conversation: Conversation, leaf: int | None, request: dict[str, Any]
) -> Prompt:
    """The prompt that ends in `leaf`, with that turn's text and what is left of its documents."""
    asked = (session.get(Document, id_) for id_ in request.get("documents", []))
    documents: list[Any] = [*references.documents(session, conversation), *filter(None, asked)]
    branch = history.branch(session, leaf, node.c.role, node.c.content, node.c.parts, node.c.extra)
    return compose(
        conversation,
        {document.id: document for document in documents}.values(),
        request.get("system_prompt_append"),
        branch,
    )


def add_reply(session: Session, conversation_id: str, reply: Reply, target: Target) -> None:
    """The empty reply that is stored before the provider is asked."""
    reply.model = target.model
    reply.message_id = history.append(
        session,
        conversation_id,
        reply.user_message_id or None,
        role="assistant",
        status="streaming",
        provider=target.provider,
        model=target.model,
        session_id=reply.session_id,
    )


def keep(
    session: Session, conversation_id: str, body: MessageCreate, idempotency: Idempotency | None
) -> int:
    """Store a message that asks nothing; its id."""
    conversation = require(session, Conversation, conversation_id)
    if idempotency and (stored := find(session, conversation_id, idempotency)):
        assert stored.id is not None
        return stored.id
    return history.append(
        session,
        conversation_id,
        history.parent(session, conversation, body.parent_id),
        role=body.role,
        model=body.model,
        **history.content_columns(body.content),
        **columns(idempotency),
    )


def find(session: Session, conversation_id: str, idempotency: Idempotency) -> Message | None:
    """The message stored under this key. Invalid where it was stored for another request."""
    query = select(Message).where(
        Message.conversation_id == conversation_id, Message.idempotency_key == idempotency.key
    )
    message = session.exec(query).first()
    if message is not None and message.idempotency_hash != idempotency.hash:
        raise Invalid("was used for another request", field="Idempotency-Key")
    return message


def columns(idempotency: Idempotency | None) -> dict[str, str]:
    if idempotency is None:
        return {}
    return {"idempotency_key": idempotency.key, "idempotency_hash": idempotency.hash}


def fingerprint(key: str, body: MessageCreate) -> Idempotency:
    """A key with the hash of its request; how the answer is to be delivered is no part of it."""
    asked = body.model_dump(mode="json", exclude={"stream"})
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False)
    return Idempotency(key, hashlib.sha256(text.encode()).hexdigest())


def _model_of(reply: Message) -> str | None:
    """The name that leads to the model of an earlier reply again."""
    if reply.provider is None:
        return None
    return echo.NAME if reply.provider == echo.NAME else f"{reply.provider}/{reply.model}"
