"""A file may be anything: what is no export is refused, what is one comes in, whatever it is in."""

import io
import json
import random
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Client
from tests.imports.test_programs import EXPORTS, upload
from tests.process import MAIN, environment, run

PLAIN = EXPORTS / "chatgpt" / "plain.json"
ZIP = "application/zip"


def zipped(files: dict[str, bytes | str]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return memory.getvalue()


def chatgpt(number: int, texts: list[str], title: str = "Chat") -> dict[str, Any]:
    """A conversation of ChatGPT's, its messages a second apart."""
    mapping: dict[str, Any] = {"m-1": {"id": "m-1", "parent": None, "message": None}}
    for at, text in enumerate(texts):
        role = "assistant" if at % 2 else "user"
        mapping[f"m{at}"] = {
            "id": f"m{at}",
            "parent": f"m{at - 1}",
            "children": [f"m{at + 1}"],
            "message": {
                "id": f"m{at}",
                "author": {"role": role},
                "create_time": 1_700_000_000 + at,
                "content": {"content_type": "text", "parts": [text]},
                "metadata": {"model_slug": "gpt-4o"} if at % 2 else {},
                "weight": 1.0,
                "recipient": "all",
            },
        }
    return {
        "id": f"c-{number}",
        "conversation_id": f"c-{number}",
        "title": f"{title} {number}",
        "create_time": 1_700_000_000.5,
        "update_time": 1_700_000_000.5 + len(texts),
        "current_node": f"m{len(texts) - 1}",
        "mapping": mapping,
    }


def test_chatgpts_zip_comes_in_with_all_its_parts(client: Client) -> None:
    data = zipped(
        {
            "conversations-000.json": json.dumps([chatgpt(0, ["a", "b"])]),
            "conversations-001.json": json.dumps([chatgpt(1, ["c", "d"]), chatgpt(2, ["e"])]),
            "export_manifest.json": json.dumps({"files": ["conversations-000.json"]}),
            "user.json": json.dumps({"id": "u", "email": "someone"}),
            "chat.html": "<html>",
            "file-abc-photo.png": b"\x89PNG",
        }
    )
    result = upload(client, data, ZIP)
    assert result["added"] == {"conversations": 3, "messages": 5}
    assert [(s["kind"], s["id"]) for s in result["skipped"]] == [
        ("files", "user.json"),
        ("files", "export_manifest.json"),
    ]
    assert upload(client, data, ZIP)["added"] == {}


def test_claudes_zip_tells_the_names_of_projects(client: Client) -> None:
    (chat,) = json.loads((EXPORTS / "claude" / "plain.json").read_bytes())
    project = {"uuid": "p-1", "name": "旅行", "prompt_template": "Be kind", "docs": [{}, {}]}
    data = zipped(
        {
            "conversations.json": json.dumps(
                [chat | {"project_uuid": "p-1"}, chat | {"uuid": "cl-2", "project_uuid": "p-2"}],
                indent=4,
            ),
            "projects.json": json.dumps([project]),
            "users.json": json.dumps([{"uuid": "u", "full_name": "Someone"}]),
        }
    )
    result = upload(client, data, ZIP)
    assert result["added"] == {"projects": 2, "conversations": 2, "messages": 4}
    assert result["left_out"] == {"documents of projects": 2, "instructions of projects": 1}
    projects = client.get("/v1/projects").json()
    assert {project["name"] for project in projects} == {"旅行", "Claude p-2"}


def test_our_own_export_may_come_in_a_zip(client: Client) -> None:
    chat = client.create(name="mine")
    file = client.get("/v1/export").content
    client.delete(f"/v1/chat/conversations/{chat}").raise_for_status()
    assert upload(client, zipped({"a/export.json": file}), ZIP)["added"] == {"conversations": 1}
    assert client.get(f"/v1/chat/conversations/{chat}").json()["name"] == "mine"


def test_a_form_takes_a_file_too(client: Client) -> None:
    answer = client.post("/v1/import", files={"file": ("any name", PLAIN.read_bytes())})
    assert answer.json()["added"] == {"conversations": 1, "messages": 2}
    for form in ({"other": ("x", b"[]")}, {"file": (None, "[]")}):
        refused = client.post("/v1/import", files=form)
        assert refused.status_code == 422, refused.text
        assert refused.json()["errors"][0]["field"] == "file"


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\n" * 5000 + b"--x--"),
    ],
)
def test_a_broken_form_is_refused(client: Client, type_: str, data: bytes) -> None:
    answer = client.post("/v1/import", content=data, headers={"Content-Type": type_})
    assert answer.status_code in (400, 422), answer.text
    assert isinstance(answer.json()["detail"], str)


def test_a_file_with_a_byte_order_mark_is_read(client: Client) -> None:
    assert upload(client, b"\xef\xbb\xbf" + PLAIN.read_bytes())["added"]["conversations"] == 1


def test_progress_is_told_while_it_goes_on(client: Client) -> None:
    data = json.dumps([chatgpt(number, ["a", "b"]) for number in range(500)])
    headers = {"Content-Type": "application/json"}
    path = "/v1/import?stream=true"
    with client.stream("POST", path, content=data, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *steps, last, done = told(response)
    assert done == "[DONE]"
    assert last["result"]["added"] == {"conversations": 500, "messages": 1000}
    assert [step["done"] for step in steps] == sorted(step["done"] for step in steps)
    with client.stream("POST", path, content="[]", headers=headers) as response:
        *_, last, _ = told(response)
    assert last["error"]["status"] == 422


def told(response: Any) -> Iterator[Any]:
    for line in response.iter_lines():
        if data := line.removeprefix("data: "):
            yield data if data == "[DONE]" else json.loads(data)


def test_a_later_export_adds_what_is_new(client: Client) -> None:
    upload(client, json.dumps([chatgpt(1, ["a", "b"])]).encode())
    longer = json.dumps([chatgpt(1, ["a", "b", "c", "d"])]).encode()
    result = upload(client, longer)
    assert (result["added"], result["existing"]) == ({"messages": 2}, {"conversations": 1})
    (chat,) = client.get("/v1/chat/conversations").json()
    assert [m["content"] for m in client.history(chat["id"])] == ["a", "b", "c", "d"]
    assert chat["updated_at"] == "2023-11-14T22:13:24.500000Z"
    assert upload(client, longer)["added"] == {}


def test_what_was_said_here_stays_the_branch_that_is_shown(client: Client) -> None:
    upload(client, json.dumps([chatgpt(1, ["a", "b"])]).encode())
    (chat,) = client.get("/v1/chat/conversations").json()
    client.say(chat["id"], "said here", model="echo").raise_for_status()
    shown = client.history(chat["id"])
    assert upload(client, json.dumps([chatgpt(1, list("abcd"))]).encode())["added"] == {
        "messages": 2
    }
    assert client.history(chat["id"]) == shown


def test_what_was_deleted_here_stays_deleted(client: Client) -> None:
    upload(client, json.dumps([chatgpt(1, list("abcd"))]).encode())
    (chat,) = client.get("/v1/chat/conversations").json()
    second = client.history(chat["id"])[1]["id"]
    client.post("/v1/chat/messages/delete", json={"message_ids": [second]}).raise_for_status()
    upload(client, json.dumps([chatgpt(1, list("abcdef"))]).encode())
    assert [m["content"] for m in client.history(chat["id"])] == list("acdef")


def test_copies_of_a_chat_may_repeat_its_message_ids(client: Client) -> None:
    result = upload(client, json.dumps([chatgpt(1, ["a"]), chatgpt(2, ["a", "b"])]).encode())
    assert (result["added"], result["skipped"]) == ({"conversations": 2, "messages": 3}, [])


def test_a_file_that_breaks_off_leaves_whole_chats(client: Client) -> None:
    data = json.dumps([chatgpt(number, ["a", "b", "c"]) for number in range(5)]).encode()
    for end in random.Random(5).sample(range(len(data) // 3, len(data)), 12):
        answer = client.post(
            "/v1/import", content=data[:end], headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["skipped"][-1]["reason"].startswith("It breaks off")
        for chat in client.get("/v1/chat/conversations").json():
            assert len(client.history(chat["id"])) == 3
    result = upload(client, data)
    assert result["added"]["conversations"] + result["existing"]["conversations"] == 5


def test_a_piece_that_is_no_json_is_told_and_the_rest_comes_in(client: Client) -> None:
    good = json.dumps(chatgpt(1, ["a"]))
    result = upload(client, f"[{{'mapping': 1}}, {good}, {'[' * 100_000}{']' * 100_000}]".encode())
    assert result["added"]["conversations"] == 1
    assert [skipped["reason"] for skipped in result["skipped"]] == [
        "It is not JSON that can be read",
        "It is nested too deeply",
    ]


def entry(name: str, **fields: Any) -> bytes:
    """A ZIP with a good export in it, and one entry like this."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", PLAIN.read_bytes())
        info = zipfile.ZipInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        archive.writestr(info, b"target")
    return memory.getvalue()


def bomb() -> bytes:
    return zipped({"conversations.json": b"[" + b" " * 500_000_000 + b"]"})


def many_entries() -> bytes:
    """A directory said to be half a gigabyte long."""
    data = bytearray(zipped({"conversations.json": b"[]"}))
    at = data.rfind(b"PK\5\6")
    data[at + 12 : at + 16] = struct.pack("<L", 500_000_000)
    return bytes(data)


def with_password() -> bytes:
    data = bytearray(zipped({"conversations.json": PLAIN.read_bytes()}))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(signature) + flags] |= 1
    return bytes(data)


def wrong_checksum() -> bytes:
    data = bytearray(zipped({"conversations.json": PLAIN.read_bytes()}))
    data[60] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        entry("../../etc/cron.d/x"),
        entry("/etc/passwd.json"),
        entry("..\\..\\x.json"),
        entry("C:\\x.json"),
        entry("a/../../x"),
        entry("link.json", external_attr=(stat.S_IFLNK | 0o777) << 16),
        bomb(),
        many_entries(),
        with_password(),
        wrong_checksum(),
        zipped({"inner.zip": zipped({"conversations.json": PLAIN.read_bytes()})}),
        zipped({}),
        zipped({"conversations.json": PLAIN.read_bytes()})[:-30],
        b"PK\3\4",
    ],
    ids=[
        "parent folders",
        "absolute name",
        "windows parent folders",
        "windows drive",
        "parent folders inside",
        "symlink",
        "bomb",
        "too many entries",
        "password",
        "wrong checksum",
        "zip in a zip",
        "nothing in it",
        "cut off",
        "only a beginning",
    ],
)
def test_a_zip_that_no_program_exports_is_refused(client: Client, data: bytes) -> None:
    answer = client.post("/v1/import", content=data, headers={"Content-Type": ZIP})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"]
    assert client.get("/v1/chat/conversations").json() == []


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", "image/png"])
def test_a_file_is_not_taken_under_another_type(client: Client, type_: str) -> None:
    answer = client.post("/v1/import", content=b"[]", headers={"Content-Type": type_})
    assert answer.status_code == 415


def test_only_an_import_takes_files(client: Client) -> None:
    answer = client.post("/v1/projects", content=b"{}", headers={"Content-Type": ZIP})
    assert answer.status_code == 415


def test_the_command_takes_a_zip(tmp_path: Path) -> None:
    file = tmp_path / "export.zip"
    file.write_bytes(zipped({"conversations.json": PLAIN.read_bytes(), "user.json": "{}"}))
    command = [sys.executable, str(MAIN), "import", str(file)]
    values = environment(tmp_path)
    first, second = (
        subprocess.run(command, env=values, capture_output=True, text=True, timeout=30)
        for _ in range(2)
    )
    assert first.stdout == "added: 1 conversations, 2 messages\nskipped: 1\n"
    assert first.stderr.startswith("Skipped files user.json: It holds no chats")
    assert second.stdout == "there already: 1 conversations\nskipped: 1\n"


@pytest.mark.long
def test_a_large_file_is_read_as_a_stream_while_turns_go_on(tmp_path: Path) -> None:
    file = tmp_path / "conversations.json"
    with file.open("w") as target:
        target.write("[")
        for number in range(300):
            chat = json.dumps(chatgpt(number, ["x" * 20_000] * 10))
            target.write(f"{',' if number else ''}{chat}")
        target.write("]")
    assert file.stat().st_size > 60_000_000
    with run(environment(tmp_path), dev=False) as process:
        chat = process.client.create(model="echo")
        process.client.say(chat, "before").raise_for_status()
        before = process.most_memory()
        results: list[dict[str, Any]] = []
        other = Client(base_url=process.client.base_url, timeout=120, trust_env=False)
        with other, file.open("rb") as source:
            uploading = threading.Thread(target=lambda: results.append(upload(other, source)))
            uploading.start()
            turns = 0
            while uploading.is_alive():
                process.client.say(chat, "meanwhile").raise_for_status()
                turns += 1
            uploading.join()
        assert results[0]["added"] == {"conversations": 300, "messages": 3000}
        assert turns > 5
        assert process.most_memory() - before < 40_000_000
