"""Files made to break the service: refused or told, without a 500, a full memory or a long wait."""

import io
import json
import random
import signal
import socket
import struct
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from imports import pieces
from imports.files import JsonFile
from imports.intake import MOST_UNKNOWN
from imports.rows import Archive
from tests.conftest import Client, wait_until
from tests.imports.test_intake import PLAIN, ZIP, chatgpt, zipped
from tests.imports.test_programs import upload
from tests.process import environment, run

JSON = {"Content-Type": "application/json"}


def long_form(length: int | None = None) -> bytes:
    """A ZIP whose end is told in the second format, with this length of its directory."""
    data = zipped({"conversations.json": PLAIN.read_bytes()})
    at = data.rfind(b"PK\5\6")
    size, begin = struct.unpack_from("<2L", data, at + 12)
    record = (b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size if length is None else length, begin)
    end = struct.pack("<4sQ2H2L4Q", *record) + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    if length is None:
        return data[:at] + end + b"PK\5\6" + b"\0" * 4 + b"\xff" * 12 + b"\0\0"
    return data[:at] + end + data[at:]


def test_a_zip_in_the_second_format_comes_in(client: Client) -> None:
    assert upload(client, long_form(), ZIP)["added"]["conversations"] == 1


def test_a_directory_is_not_longer_than_either_format_tells(client: Client) -> None:
    answer = client.post(
        "/v1/import", content=long_form(500_000_000), headers={"Content-Type": ZIP}
    )
    assert answer.json()["detail"] == "body: is a ZIP file with too many entries"


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_zip_is_refused(client: Client, method: int) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        archive.writestr("conversations.json", PLAIN.read_bytes())
    chance = random.Random(method)
    for _ in range(150):
        data = bytearray(memory.getvalue())
        data[chance.randrange(len(data))] = chance.choice([0, 0xFF, chance.randrange(256)])
        answer = client.post("/v1/import", content=bytes(data), headers={"Content-Type": ZIP})
        assert answer.status_code in (200, 422), bytes(data)


def test_no_file_at_all_is_refused(client: Client) -> None:
    assert client.post("/v1/import").status_code == 422


def test_an_object_without_end_is_not_kept_in_memory() -> None:
    many = b"{%s}" % b",".join(b'"%d":1' % number for number in range(5000))
    for data in (many, b'{"%s": 1}' % (b"x" * 5000)):
        file = io.BytesIO(data)
        assert Archive.open(JsonFile(None, file)) is None
        with pytest.raises(pieces.BrokenJson):
            pieces.members(file, (0, len(data)))


def test_a_file_of_nothing_but_broken_pieces_is_not_read_to_its_end(client: Client) -> None:
    broken = b"x," * (MOST_UNKNOWN + 50_000)
    result = upload(client, b"[%s,%s]" % (json.dumps(chatgpt(1, ["a"])).encode(), broken))
    assert result["added"]["conversations"] == 1
    assert result["skipped_count"] == MOST_UNKNOWN + 2


def test_a_chat_with_an_endless_id_is_skipped(client: Client) -> None:
    endless = chatgpt(1, ["a"]) | {"conversation_id": "x" * 256}
    result = upload(client, json.dumps([endless, chatgpt(2, ["a"])]).encode())
    assert result["added"]["conversations"] == 1
    assert result["skipped"][0]["reason"] == "id: may have 255 characters at most"


def test_a_list_of_nothing_is_told_once(client: Client) -> None:
    data = zipped({"empty.json": "[]", "conversations.json": PLAIN.read_bytes()})
    (skipped,) = upload(client, data, ZIP)["skipped"]
    assert (skipped["kind"], skipped["id"]) == ("files", "empty.json")


def test_exports_of_ours_one_after_the_other_are_not_half_taken(client: Client) -> None:
    chats = [client.create(name=name) for name in ("one", "two")]
    path = "/v1/chat/conversations/"
    data = b"".join(client.get(f"{path}{chat}/export").content for chat in chats)
    assert client.post("/v1/import", content=data, headers=JSON).status_code == 422


@pytest.mark.parametrize("query", ["", "?stream=true"])
@pytest.mark.parametrize("type_", ["application/json", "multipart/form-data; boundary=x"])
def test_who_leaves_in_the_middle_of_a_file_is_nobodys_error(
    client: Client, caplog: pytest.LogCaptureFixture, query: str, type_: str
) -> None:
    head = f"POST /v1/import{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {type_}\r\n"
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as connection:
        connection.sendall(f"{head}Content-Length: 100000\r\n\r\n--x\r\n".encode())
        client.get("/health").raise_for_status()
    for _ in range(20):
        client.get("/v1/chat/conversations").raise_for_status()
    assert caplog.records == []


def test_a_stop_leaves_whole_chats_and_says_so(tmp_path: Path) -> None:
    data = json.dumps([chatgpt(number, list("abc")) for number in range(20_000)])
    answers: list[Any] = []
    with run(environment(tmp_path)) as process:
        client = process.client
        with Client(base_url=client.base_url, timeout=30, trust_env=False) as other:
            sending = threading.Thread(
                target=lambda: answers.append(other.post("/v1/import", content=data, headers=JSON))
            )
            sending.start()
            wait_until(lambda: client.get("/v1/chat/conversations").json())
            process.stop(signal.SIGTERM)
            sending.join()
    assert answers[0].status_code == 503
    assert "stopped" in answers[0].json()["detail"]
    with run(environment(tmp_path)) as process:
        for chat in process.client.get("/v1/chat/conversations").json():
            assert len(process.client.history(chat["id"])) == 3
