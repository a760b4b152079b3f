"""The one shape that the chats of other programs are read into, and what they all need for it.

A file may have any type in any place: `text`, `mapping` and `listing` give what was meant there, or
nothing.
"""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from errors import Invalid
from fields import iso, storable

# Seconds since 1970 up to the year 5138; a larger number counts milli- or microseconds.
MOST_SECONDS = 100_000_000_000
LONGEST_LABEL = 255

# What a file has of a chat, or of a message.
Item = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """One message of a tree; one without content only holds the tree together."""

    id: str
    parent: str | None
    role: str = ""
    content: str = ""
    reasoning: str = ""
    model: str | None = None
    created_at: str | None = None
    cut_off: bool = False


@dataclass
class Chat:
    """A conversation of another program; `current` is the end of the branch that it showed."""

    source: str
    id: str
    nodes: list[Node] = field(default_factory=list)
    current: str | None = None
    name: str | None = None
    project: str | None = None
    model: str | None = None
    system_prompt: str | None = None
    archived: bool = False
    created_at: str | None = None
    updated_at: str | None = None
    # What of it cannot be kept: how many of each kind.
    left_out: Counter[str] = field(default_factory=Counter)

    def tree(self) -> tuple[list[Node], str]:
        """The messages with content, parents first, and which one of them the shown branch ends in.

        Each hangs on the nearest such one above it, whose time is its own if it has none; thoughts
        that were a message of their own go to the reply that came of them. Invalid where there is
        no message with content.
        """
        below = self._children()
        kept: list[Node] = []
        nearest: dict[str, Node | None] = {}
        thoughts: list[str] = []
        # Last come those that no first message leads to: a parent of theirs is below them.
        waiting: list[tuple[Node, Node | None]] = []
        waiting += [(node, None) for node in [*reversed(self.nodes), *reversed(below[None])]]
        while waiting:
            node, parent = waiting.pop()
            if node.id in nearest:
                thoughts.clear()
                continue
            nearest[node.id] = parent
            thoughts.append(node.reasoning)
            if node.content:
                nearest[node.id] = node = _below(node, parent, paragraphs(*thoughts))
                kept.append(node)
            if node.content or not below[node.id]:
                thoughts.clear()
            waiting += [(it, nearest[node.id]) for it in reversed(below[node.id])]
        if not kept:
            raise Invalid("has none that can be kept", field="messages")
        current = nearest.get(self.current or "")
        return kept, current.id if current else _newest_leaf(kept)

    def _children(self) -> dict[str | None, list[Node]]:
        """The children of each message, in the file's order; None has those without a parent."""
        ids = {node.id for node in self.nodes}
        below = defaultdict[str | None, list[Node]](list)
        for node in self.nodes:
            below[node.parent if node.parent in ids else None].append(node)
        return below


def _below(node: Node, parent: Node | None, thoughts: str) -> Node:
    return replace(
        node,
        parent=parent.id if parent else None,
        reasoning=thoughts if node.role == "assistant" else "",
        created_at=node.created_at or (parent.created_at if parent else None),
    )


def _newest_leaf(kept: list[Node]) -> str:
    parents = {node.parent for node in kept}
    leaves = [node for node in reversed(kept) if node.id not in parents]
    return max(leaves, key=lambda node: node.created_at or "").id


def text(value: Any) -> str:
    """A text, or nothing."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def label(value: Any) -> str | None:
    """A name, cut to what a name may have; None where there is none."""
    return " ".join(text(value).split())[:LONGEST_LABEL].strip() or None


def key(value: Any) -> str:
    """An id. Invalid where there is none: without it the same would be added again and again.

    A chat's stands in each of its messages' too: a very long one would fill the disk.
    """
    if not isinstance(value, str | int) or not value:
        raise Invalid("must be given", field="id")
    if len(id_ := storable(str(value))) > LONGEST_LABEL:
        raise Invalid(f"may have {LONGEST_LABEL} characters at most", field="id")
    return id_


def moment(value: Any) -> str | None:
    """A time as it is stored: from ISO 8601, or from seconds, milli- or microseconds since 1970."""
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return iso(time if time.tzinfo else time.replace(tzinfo=UTC))
        if isinstance(value, bool) or not value or not math.isfinite(value):
            return None
        for _ in range(2):
            if abs(value) >= MOST_SECONDS:
                value /= 1000
        return iso(datetime.fromtimestamp(value, UTC))
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def fenced(code: str, language: str = "") -> str:
    """Code as Markdown, in a fence that is longer than any in it."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def paragraphs(*pieces: str) -> str:
    """Those that say something, a blank line between them."""
    return "\n\n".join(piece for piece in pieces if piece.strip())


def mentioned(kind: str, name: Any = None) -> str:
    """What stands where something was that the file only names."""
    return f"[{kind}: {name}]" if text(name) else f"[{kind}]"
