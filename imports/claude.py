"""Claude's export: `chat_messages` in order, or as a tree where each names its parent.

The format was put together from descriptions; Anthropic documents none of it.
"""

from collections import Counter
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

SOURCE = "claude"
ROLES = {"human": "user", "assistant": "assistant"}
LEFT_OUT = {"tool_use": "calls of tools", "tool_result": "results of tools"}


def recognises(item: Item) -> bool:
    return "chat_messages" in item


def read(item: Item) -> Chat:
    """A conversation of `conversations.json`."""
    chat = Chat(
        SOURCE,
        key(item.get("uuid")),
        current=text(item.get("current_leaf_message_uuid")),
        name=label(item.get("name")),
        project=_project(item.get("project_uuid")),
        model=label(item.get("model")),
        created_at=moment(item.get("created_at")),
        updated_at=moment(item.get("updated_at")),
    )
    chat.left_out["summaries"] += bool(item.get("summary"))
    messages = [mapping(message) for message in listing(item.get("chat_messages"))]
    tree = any(message.get("parent_message_uuid") for message in messages)
    before: str | None = None
    for number, message in enumerate(messages):
        id_ = text(message.get("uuid")) or str(number)
        parent = text(message.get("parent_message_uuid")) if tree else before
        chat.nodes.append(_node(id_, parent or None, message, chat.left_out))
        before = id_
    return chat


def project(item: Item, left_out: Counter[str]) -> dict[str, str]:
    """What the chats of a project in `projects.json` call it, and its name; else nothing."""
    called, name = _project(item.get("uuid")), label(item.get("name"))
    if called is None or name is None or "prompt_template" not in item:
        return {}
    left_out["documents of projects"] += len(listing(item.get("docs")))
    left_out["instructions of projects"] += bool(item.get("prompt_template"))
    return {called: name}


def _project(id_: Any) -> str | None:
    """A project's name until the file that tells it is read."""
    return label(f"Claude {id_}") if text(id_) else None


def _node(id_: str, parent: str | None, message: Item, left_out: Counter[str]) -> Node:
    role = ROLES.get(text(message.get("sender")))
    if role is None:
        left_out["messages of unknown roles"] += 1
        return Node(id_, parent)
    blocks = [mapping(block) for block in listing(message.get("content"))]
    for block in blocks:
        if reason := LEFT_OUT.get(text(block.get("type"))):
            left_out[reason] += 1
    said = paragraphs(*(text(b.get("text")) for b in blocks if b.get("type") == "text"))
    return Node(
        id_,
        parent,
        role,
        paragraphs(said or text(message.get("text")), *_attached(message, left_out)),
        reasoning=paragraphs(*(text(block.get("thinking")) for block in blocks)),
        created_at=moment(message.get("created_at")),
    )


def _attached(message: Item, left_out: Counter[str]) -> list[str]:
    """What was read out of attached files, between lines that name them; others are named."""
    shown = []
    for attachment in map(mapping, listing(message.get("attachments"))):
        name = text(attachment.get("file_name")) or "attachment"
        if extracted := text(attachment.get("extracted_content")):
            shown.append(f"----- {name} BEGIN -----\n{extracted}\n----- {name} END -----")
        else:
            left_out["files"] += 1
            shown.append(mentioned("file", name))
    for file in map(mapping, listing(message.get("files"))):
        left_out["files"] += 1
        shown.append(mentioned("file", file.get("file_name")))
    return shown
