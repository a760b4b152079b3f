"""Exports of other programs come in as their authors saw them: each odd case is a file of its own.

Beside each file in tests/exports stands what must come of it, as text: every conversation with all
its branches (`*` marks the one that is shown), and what was left out or skipped.
"""

from pathlib import Path
from typing import IO, Any

import pytest

from tests.conftest import Client

EXPORTS = Path(__file__).parent.parent / "exports"
FILES = sorted(path for path in EXPORTS.glob("*/*") if path.suffix == ".json")


def upload(
    client: Client, data: bytes | IO[bytes], type_: str = "application/json"
) -> dict[str, Any]:
    answer = client.post("/v1/import", content=data, headers={"Content-Type": type_})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def everything(client: Client) -> str:
    """All conversations, oldest first, as text."""
    listed = client.get("/v1/chat/conversations", params={"limit": 100}).json()
    chats = client.get("/v1/export").json()["conversations"]
    origin = {chat["id"]: (chat["source"], chat["external_id"]) for chat in chats}
    listed.sort(key=lambda chat: origin[chat["id"]])
    return "\n".join(shown(client, chat, *origin[chat["id"]]) for chat in listed)


def shown(client: Client, chat: dict[str, Any], source: str, external_id: str) -> str:
    path = f"/v1/chat/conversations/{chat['id']}/messages"
    messages = client.get(path, params={"all": "true"}).json()["messages"]
    lines = [
        f"{source} {external_id} | {chat['name']} | {chat['model']} | {chat['project_name']}"
        f" | {'archived' if chat['status'] else 'normal'}",
        f"{chat['created_at']} to {chat['updated_at']}",
    ]
    depth = {None: 0, 0: 0}
    for message in messages:
        depth[message["id"]] = depth[message["parent_id"]] + 1
        lines += told(message, "  " * depth[message["id"]])
    return "\n".join([*lines, ""])


def told(message: dict[str, Any], indent: str) -> list[str]:
    mark = "*" if message["active"] else "-"
    status = "" if message["status"] == "complete" else f" {message['status']}"
    model = f" ({message['model']})" if message["model"] else ""
    lines = [f"{indent}{mark} {message['role']}{model}{status} {message['created_at']}"]
    if message["reasoning"]:
        lines += [f"{indent}  ~ {line}" for line in message["reasoning"].split("\n")]
    return lines + [f"{indent}  {line}".rstrip() for line in message["content"].split("\n")]


def of_result(result: dict[str, Any]) -> str:
    lines = [f"left out: {count} {kind}" for kind, count in sorted(result["left_out"].items())]
    lines += [f"skipped: {s['kind']} {s['id']}: {s['reason']}" for s in result["skipped"]]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_export_comes_in_whole_and_only_once(client: Client, path: Path) -> None:
    result = upload(client, path.read_bytes())
    first = everything(client)
    assert f"{first}\n{of_result(result)}" == path.with_suffix(".txt").read_text()
    again = upload(client, path.read_bytes())
    assert again["added"] == {}
    assert again["existing"].get("conversations") == result["added"].get("conversations")
    assert everything(client) == first
