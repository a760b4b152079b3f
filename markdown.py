"""A conversation as a person wants to read it, and names that every file system takes."""

import re
import unicodedata
from typing import Any

NAMELESS = "Untitled"
# Windows refuses these before any ending; a name may have 255 bytes on Linux, and in a path of
# 260 characters there are folders too.
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.I)
# Control characters, and those that turn the direction of writing and so hide an ending.
REFUSED = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]')
LONGEST_NAME = 80
MOST_BYTES = 180
SPEAKERS = {"user": "User", "assistant": "Assistant", "system": "System"}


def render(conversation: dict[str, Any], project: str | None) -> str:
    """The branch that history shows: who spoke, when, and what was said, as it was said."""
    head = [f"# {_line(conversation['name'] or NAMELESS)}", _about(conversation, project)]
    if prompt := conversation["system_prompt"]:
        head.append("\n".join(f"> {line}".rstrip() for line in f"System\n\n{prompt}".split("\n")))
    branch = _branch(conversation)
    parts = [*head, *map(_message, branch)]
    if others := len(conversation["messages"]) - len(branch):
        parts.append(f"*{others} more messages are in other branches: see the JSON export.*")
    return "\n\n".join(parts) + "\n"


def file_name(text: str | None) -> str:
    """A name that Windows, macOS and Linux take, as like the text as that allows."""
    name = unicodedata.normalize("NFC", REFUSED.sub(" ", text or ""))
    name = " ".join(name.split())[:LONGEST_NAME]
    name = name.encode()[:MOST_BYTES].decode(errors="ignore").strip(" .")
    return f"_{name}" if RESERVED.match(name) else name or NAMELESS


class Names:
    """Names that are free in their folder, also where the case of letters does not matter."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()
        self._last: dict[tuple[str, str], int] = {}

    def free(self, folder: str, text: str | None) -> str:
        """The text's name, with a number behind it where the name is taken."""
        name = candidate = file_name(text)
        number = self._last.get((folder, _alike(name)), 1)
        while (folder, _alike(candidate)) in self._taken:
            number += 1
            candidate = f"{name} ({number})"
        self._last[folder, _alike(name)] = number
        self._taken.add((folder, _alike(candidate)))
        return candidate


def _alike(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _line(text: str) -> str:
    return " ".join(text.split())


def _about(conversation: dict[str, Any], project: str | None) -> str:
    facts = [project, conversation["model"], f"{_time(conversation['created_at'])} UTC"]
    return " · ".join(_line(fact) for fact in facts if fact)


def _branch(conversation: dict[str, Any]) -> list[dict[str, Any]]:
    by_id = {message["id"]: message for message in conversation["messages"]}
    branch = []
    leaf = by_id.get(conversation["active_message_id"])
    while leaf:
        branch.append(leaf)
        leaf = by_id.get(leaf["parent_id"])
    return branch[::-1]


def _message(message: dict[str, Any]) -> str:
    speaker = SPEAKERS.get(message["role"], message["role"])
    facts = [f"**{speaker}**", message["model"], _time(message["created_at"])]
    parts = ["---", " · ".join(fact for fact in facts if fact), message["content"]]
    parts += [f"*({name})*" for name in _attached(message["parts"] or [])]
    if message["status"] != "complete":
        parts.append(f"*({_line(': '.join(filter(None, (message['status'], message['error']))))})*")
    return "\n\n".join(part for part in parts if part)


def _attached(parts: list[dict[str, Any]]) -> list[str]:
    """Images and files, which Markdown has no place for, by name."""
    names = []
    for part in parts:
        if part.get("type") == "image_url":
            names.append("image")
        elif part.get("type") == "file":
            file = part.get("file")
            name = file.get("filename") if isinstance(file, dict) else None
            names.append(f"file {name}" if isinstance(name, str) else "file")
    return names


def _time(moment: str) -> str:
    return moment[:16].replace("T", " ")
