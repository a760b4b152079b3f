"""What a model is sent: one function composes the whole prompt of a turn."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement

from models import Conversation

Prompt = list[dict[str, Any]]
# A number, or what SQLite is to reckon with.
Count = TypeVar("Count", int, ColumnElement[int])


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


class Readable(Protocol):
    """What is read of a stored document."""

    @property
    def filename(self) -> str: ...
    @property
    def content(self) -> str: ...


def compose(
    conversation: Conversation,
    documents: Iterable[Readable],
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


def merge(documents: Iterable[Readable]) -> str:
    """Documents one after another, each between lines that name it."""
    return "\n\n".join(
        f"----- {document.filename} BEGIN -----\n"
        f"{document.content}\n"
        f"----- {document.filename} END -----"
        for document in documents
    )


def shorten(prompt: Prompt) -> tuple[Prompt, int] | None:
    """The prompt without its oldest turns, about half as long, and how many messages that is less.

    System text and the last question stay; None where nothing else is left to leave out.
    """
    head = 1 if prompt and prompt[0]["role"] == "system" else 0
    starts = [i for i in range(head + 1, len(prompt)) if prompt[i]["role"] == "user"]
    if not starts:
        return None
    sizes = [size([message]) for message in prompt]
    left = [*accumulate(reversed(sizes))][::-1]  # from each message to the end
    start = next((i for i in starts if left[i] <= left[head] / 2), starts[-1])
    return prompt[:head] + prompt[start:], start - head


def size(prompt: Prompt) -> int:
    """The length of a prompt's texts in characters; what is no text counts nothing."""
    return sum(len(text) for message in prompt for text in _texts(message))


def estimated_tokens(prompt: Prompt) -> int:
    """A rough guess at how many tokens a prompt's texts are."""
    texts = "".join(text for message in prompt for text in _texts(message))
    return guess(len(texts), len(texts.encode()))


def guess(characters: Count, size: Count) -> Count:
    """A rough guess at the tokens of a text that has so many characters and, in UTF-8, bytes.

    Four letters of ASCII are a token, and so is one Chinese, Japanese or Korean character; others
    are in between.
    """
    return (3 * size - characters + 7) // 8


def _texts(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    texts = (part.get("text") for part in content or [] if part.get("type") == "text")
    return [text for text in texts if isinstance(text, str)]
