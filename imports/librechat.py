"""LibreChat's export: one conversation a file, its messages in a list or nested in `messagesTree`.

The format was put together from descriptions and its public source.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from imports.chats import (
    Chat,
    Item,
    Node,
    key,
    label,
    listing,
    mapping,
    mentioned,
    moment,
    paragraphs,
    text,
)

SOURCE = "librechat"


def recognises(item: Item) -> bool:
    return "conversationId" in item and ("messages" in item or "messagesTree" in item)


def read(item: Item) -> Chat:
    """One conversation; without a word on which branch was shown, it is the newest one."""
    options = mapping(item.get("options"))
    chat = Chat(
        SOURCE,
        key(item.get("conversationId")),
        name=label(item.get("title")),
        model=label(options.get("model")),
        system_prompt=text(options.get("promptPrefix")) or text(options.get("system")),
        archived=item.get("isArchived") is True,
        created_at=moment(item.get("createdAt")),
        updated_at=moment(item.get("updatedAt")),
    )
    chat.left_out["tags"] += len(listing(item.get("tags")))
    for message, parent in _messages(item):
        chat.nodes.append(_node(message, parent, chat.left_out))
    return chat


def _messages(item: Item) -> Iterator[tuple[Item, Any]]:
    """Every message with its parent's id, parents first where they are nested."""
    top = listing(item.get("messagesTree")) or listing(item.get("messages"))
    waiting = [(mapping(message), None) for message in reversed(top)]
    while waiting:
        message, above = waiting.pop()
        yield message, message.get("parentMessageId") or above
        children = listing(message.get("children"))
        waiting += [(mapping(child), message.get("messageId")) for child in reversed(children)]


def _node(message: Item, parent: Any, left_out: Counter[str]) -> Node:
    id_ = key(message.get("messageId"))
    said, thoughts = _said(message, left_out)
    if message.get("error") is True:
        left_out["replies that failed"] += 1
        said = ""
    by_user = message.get("isCreatedByUser") is True
    return Node(
        id_,
        text(parent) or None,
        "user" if by_user else "assistant",
        paragraphs(said, *_attached(message, left_out)),
        reasoning=thoughts,
        model=None if by_user else label(message.get("model")),
        created_at=moment(message.get("createdAt")),
        cut_off=not by_user and message.get("unfinished") is True,
    )


def _said(message: Item, left_out: Counter[str]) -> tuple[str, str]:
    """The text, and the thoughts; newer messages have parts, and both of them in these."""
    said, thoughts = [], []
    for part in map(mapping, listing(message.get("content"))):
        kind = text(part.get("type"))
        # A part's text stands in it, or one level deeper.
        own = part.get(kind)
        words = text(own) or text(mapping(own).get("value"))
        if kind == "text":
            said.append(words)
        elif kind == "think":
            thoughts.append(words)
        elif kind == "tool_call":
            left_out["calls of tools"] += 1
        elif kind != "error":
            left_out["pictures"] += 1
            said.append(mentioned("image"))
    return paragraphs(*said) or text(message.get("text")), paragraphs(*thoughts)


def _attached(message: Item, left_out: Counter[str]) -> list[str]:
    files = [mapping(file) for file in listing(message.get("files"))]
    left_out["files"] += len(files)
    return [mentioned("file", file.get("filename")) for file in files]
