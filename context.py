"""What a model is sent: one function composes the whole prompt of a turn."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from models import Conversation, Document

Prompt = list[dict[str, Any]]


class Spoken(Protocol):
    """What is read of a stored message: a row of these columns."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def parts(self) -> list[dict[str, Any]] | None: ...
    @property
    def extra(self) -> dict[str, Any] | None: ...


def compose(
    conversation: Conversation,
    documents: Sequence[Document],
    append: str | None,
    branch: Iterable[Spoken],
) -> Prompt:
    """System prompt, role line, documents and appended text in one system message, then the branch.

    Replies that failed without a text are left out, so that a model never answers an empty turn.
    """
    system = [
        conversation.system_prompt,
        role_line(conversation.assistance_role),
        merge(documents),
        append,
    ]
    text = "\n\n".join(part for part in system if part)
    prompt: Prompt = [{"role": "system", "content": text}] if text else []
    prompt += (
        {
            "role": message.role,
            "content": message.parts or message.content,
            **(message.extra or {}),
        }
        for message in branch
        if message.parts or message.content or message.extra
    )
    return prompt


def role_line(role: str | None) -> str | None:
    return f"Your role in this conversation: {role}" if role else None


def merge(documents: Sequence[Document]) -> str:
    """Documents one after another, each between lines that name it."""
    return "\n\n".join(
        f"----- {document.filename} BEGIN -----\n"
        f"{document.content}\n"
        f"----- {document.filename} END -----"
        for document in documents
    )
