"""Open WebUI's export: `chat.history.messages`, a tree by `parentId`; an array, or a chat a line.

The format was put together from descriptions and its public source.
"""

from collections import Counter

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

SOURCE = "open-webui"
ROLES = frozenset({"user", "assistant", "system"})


def recognises(item: Item) -> bool:
    chat = mapping(item.get("chat"))
    return "history" in chat or "messages" in chat


def read(item: Item) -> Chat:
    """One chat; its folder is told by its id alone."""
    inner = mapping(item.get("chat"))
    history = mapping(inner.get("history"))
    folder = text(item.get("folder_id"))
    models = listing(inner.get("models"))
    chat = Chat(
        SOURCE,
        key(item.get("id") or inner.get("id")),
        current=text(history.get("currentId")),
        name=label(inner.get("title")) or label(item.get("title")),
        project=f"Open WebUI {folder}" if folder else None,
        model=label(models[0]) if models else None,
        system_prompt=text(inner.get("system")) or text(mapping(inner.get("params")).get("system")),
        archived=item.get("archived") is True,
        created_at=moment(item.get("created_at")) or moment(inner.get("timestamp")),
        updated_at=moment(item.get("updated_at")),
    )
    chat.left_out["tags"] += len(listing(mapping(item.get("meta")).get("tags")))
    chat.left_out["pins"] += item.get("pinned") is True
    for id_, message in _messages(history, inner):
        chat.nodes.append(_node(id_, message, chat.left_out))
    return chat


def _messages(history: Item, inner: Item) -> list[tuple[str, Item]]:
    """The tree; of chats older than trees, the messages in their order."""
    if tree := mapping(history.get("messages")):
        return [(id_, mapping(message)) for id_, message in tree.items()]
    messages = [mapping(message) for message in listing(inner.get("messages"))]
    ids = [text(message.get("id")) or str(at) for at, message in enumerate(messages)]
    before = [None, *ids]
    return [
        (id_, {"parentId": parent, **message})
        for id_, parent, message in zip(ids, before, messages, strict=False)
    ]


def _node(id_: str, message: Item, left_out: Counter[str]) -> Node:
    parent, role = text(message.get("parentId")) or None, text(message.get("role"))
    said = paragraphs(_said(message, left_out), *_attached(message, left_out))
    if role not in ROLES:
        left_out["messages of unknown roles"] += bool(said)
        return Node(id_, parent)
    if message.get("error") and not said:
        left_out["replies that failed"] += 1
    return Node(
        id_,
        parent,
        role,
        said,
        model=label(message.get("model")) if role == "assistant" else None,
        created_at=moment(message.get("timestamp")),
        cut_off=role == "assistant" and message.get("done") is False,
    )


def _said(message: Item, left_out: Counter[str]) -> str:
    parts = [mapping(part) for part in listing(message.get("content"))]
    shown = [text(message.get("content"))]
    for part in parts:
        if part.get("type") == "text":
            shown.append(text(part.get("text")))
        else:
            left_out["pictures"] += 1
            shown.append(mentioned("image"))
    return paragraphs(*shown)


def _attached(message: Item, left_out: Counter[str]) -> list[str]:
    files = [mapping(file) for file in listing(message.get("files"))]
    left_out["files"] += len(files)
    return [
        mentioned("image" if file.get("type") == "image" else "file", file.get("name"))
        for file in files
    ]
