"""ChatGPT's export: each conversation a `mapping` of nodes, of which many were never shown.

The format was put together from descriptions and from files that others have published; OpenAI
documents none of it.
"""

from collections import Counter
from typing import Any

from imports.chats import (
    Chat,
    Item,
    Node,
    fenced,
    key,
    label,
    listing,
    mapping,
    mentioned,
    moment,
    paragraphs,
    text,
)

SOURCE = "chatgpt"
# What a program on OpenAI's side says, for the model or for the page, not for the reader.
HIDDEN_TYPES = frozenset({"user_editable_context", "model_editable_context", "reasoning_recap"})
CUT_OFF = frozenset({"in_progress", "finished_partial_completion"})
NO_MODEL = frozenset({"auto"})
PROJECT_PREFIX = "g-p-"
PYTHON = "python"


def recognises(item: Item) -> bool:
    return "mapping" in item or "current_node" in item


def read(item: Item) -> Chat:
    """A conversation of `conversations.json`, or of one of its numbered parts."""
    slug, gizmo = text(item.get("default_model_slug")), text(item.get("gizmo_id"))
    chat = Chat(
        SOURCE,
        key(item.get("conversation_id") or item.get("id")),
        current=text(item.get("current_node")),
        name=label(item.get("title")),
        project=f"ChatGPT {gizmo}" if gizmo.startswith(PROJECT_PREFIX) else None,
        model=label(slug) if slug not in NO_MODEL else None,
        archived=item.get("is_archived") is True,
        created_at=moment(item.get("create_time")),
        updated_at=moment(item.get("update_time")),
    )
    for id_, node in mapping(item.get("mapping")).items():
        chat.nodes.append(_node(id_, mapping(node), chat.left_out))
    return chat


def _node(id_: str, node: Item, left_out: Counter[str]) -> Node:
    message = mapping(node.get("message"))
    role = text(mapping(message.get("author")).get("role"))
    told = Node(
        id_,
        text(node.get("parent")) or None,
        role="user" if role == "user" else "assistant",
        model=label(mapping(message.get("metadata")).get("model_slug")),
        created_at=moment(message.get("create_time")),
        cut_off=text(message.get("status")) in CUT_OFF,
    )
    if not message:
        return told
    content = mapping(message.get("content"))
    if thoughts := _thoughts(message, content):
        return Node(told.id, told.parent, reasoning=thoughts)
    said = paragraphs(_said(content, left_out), *_attached(message, content, left_out))
    if reason := _unshown(message, content, role):
        left_out[reason] += bool(said)
        return Node(told.id, told.parent)
    return Node(**{**vars(told), "content": said})


def _unshown(message: Item, content: Item, role: str) -> str | None:
    """What kind of message this is, where it is none of the talk itself."""
    metadata = mapping(message.get("metadata"))
    hidden = (
        role == "system"
        or message.get("weight") == 0
        or metadata.get("is_visually_hidden_from_conversation") is True
        or text(content.get("content_type")) in HIDDEN_TYPES
    )
    if hidden:
        return "hidden messages"
    name = text(mapping(message.get("author")).get("name"))
    if role == "tool" and name != PYTHON and content.get("content_type") != "multimodal_text":
        return "results of tools"
    if role == "assistant" and message.get("recipient") not in (None, "all", PYTHON):
        return "calls of tools"
    return None if role in ("user", "assistant", "tool") else "messages of unknown roles"


def _thoughts(message: Item, content: Item) -> str:
    if content.get("content_type") == "thoughts":
        thoughts = map(mapping, listing(content.get("thoughts")))
        return paragraphs(*(text(t.get("content")) or text(t.get("summary")) for t in thoughts))
    analysis = message.get("channel") == "analysis" and content.get("content_type") == "text"
    return "\n".join(map(text, listing(content.get("parts")))) if analysis else ""


def _said(content: Item, left_out: Counter[str]) -> str:
    """A message's content as text; what was a picture or a sound is mentioned."""
    kind, own = content.get("content_type"), text(content.get("text"))
    if kind == "code":
        language = text(content.get("language"))
        return fenced(own, language if language != "unknown" else "") if own.strip() else ""
    if kind == "execution_output":
        return fenced(own) if own.strip() else ""
    parts = [_part(part, left_out) for part in listing(content.get("parts"))]
    return "\n".join(filter(None, parts)) or own or text(content.get("result"))


def _part(part: Any, left_out: Counter[str]) -> str:
    if isinstance(part, str):
        return part
    kind = text(mapping(part).get("content_type"))
    if not kind:
        return ""
    if own := text(mapping(part).get("text")):  # what was said aloud
        return own
    if "audio" in kind:  # its words are a part of their own
        left_out["sounds"] += 1
        return ""
    left_out["pictures"] += 1
    return mentioned("image")


def _attached(message: Item, content: Item, left_out: Counter[str]) -> list[str]:
    """The names of files; a picture that is shown is mentioned where it stands."""
    pointers = (text(mapping(p).get("asset_pointer")) for p in listing(content.get("parts")))
    shown = {pointer.rpartition("/")[2] for pointer in pointers} - {""}
    named = []
    for file in map(mapping, listing(mapping(message.get("metadata")).get("attachments"))):
        if text(file.get("id")) not in shown:
            left_out["files"] += 1
            named.append(mentioned("file", file.get("name")))
    return named
