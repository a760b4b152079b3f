"""A chat comes in again with a later file: only what is new is added, whatever was done here."""

import json
import threading
from pathlib import Path
from typing import Any

from tests.conftest import Client, make_settings, serve, stream
from tests.imports.test_intake import chatgpt
from tests.imports.test_programs import upload
from tests.upstream import Upstream


def file(*chats: dict[str, Any]) -> bytes:
    return json.dumps(chats).encode()


def only(client: Client) -> str:
    (chat,) = client.get("/v1/chat/conversations").json()
    return str(chat["id"])


def contents(client: Client) -> list[str]:
    return [message["content"] for message in client.history(only(client))]


def delete(client: Client, *positions: int) -> None:
    shown = client.history(only(client))
    body = {"message_ids": [shown[at]["id"] for at in positions]}
    client.post("/v1/chat/messages/delete", json=body).raise_for_status()


def test_the_end_that_was_deleted_here_stays_deleted(client: Client) -> None:
    upload(client, file(chatgpt(1, list("abcd"))))
    delete(client, -1)
    assert upload(client, file(chatgpt(1, list("abcd"))))["added"] == {}
    assert upload(client, file(chatgpt(1, list("abcdef"))))["added"] == {"messages": 2}
    assert contents(client) == list("abcef")


def test_a_chat_that_was_emptied_here_takes_only_what_is_new(client: Client) -> None:
    upload(client, file(chatgpt(1, list("ab"))))
    delete(client, 0)
    delete(client, 0)
    assert upload(client, file(chatgpt(1, list("ab"))))["added"] == {}
    # The file shows a branch of which nothing is here.
    elsewhere = chatgpt(1, list("ab"))
    elsewhere["mapping"]["new"] = {**elsewhere["mapping"]["m0"], "id": "new"}
    assert upload(client, file(elsewhere))["added"] == {"messages": 1}
    assert contents(client) == ["a"]


def test_a_chat_without_times_grows_too(client: Client) -> None:
    for texts in ("ab", "abcd"):
        chat = chatgpt(1, list(texts))
        for node in chat["mapping"].values():
            if node["message"]:
                node["message"]["create_time"] = None
        assert upload(client, file(chat))["added"]["messages"] == 2
    assert contents(client) == list("abcd")


def test_a_reply_that_was_empty_when_first_exported_comes_later(client: Client) -> None:
    upload(client, file(chatgpt(1, ["a", ""])))
    later = chatgpt(1, list("abc"))
    times = [later["mapping"][id_]["message"] for id_ in ("m0", "m1")]
    times[1]["create_time"] = times[0]["create_time"]
    assert upload(client, file(later))["added"] == {"messages": 2}
    assert contents(client) == list("abc")


def test_ids_that_cannot_be_kept_as_they_are_are_known_again(client: Client) -> None:
    chat = chatgpt(1, ["a", "b"])
    chat["mapping"] = {
        "\0": chat["mapping"]["m0"],
        "b": {**chat["mapping"]["m1"], "parent": "\0"},
    }
    assert upload(client, file(chat))["added"]["messages"] == 2
    chat["mapping"]["c"] = {**chat["mapping"]["\0"], "parent": "\0"}
    assert upload(client, file(chat))["added"] == {"messages": 1}
    parents = client.get("/v1/export").json()["conversations"][0]["messages"]
    assert [message["parent_id"] for message in parents] == [None, 1, 1]


def test_a_reply_goes_on_while_its_chat_comes_in_again(client: Client, upstream: Upstream) -> None:
    upload(client, file(chatgpt(1, list("ab"))))
    with stream(client, only(client), "q", model="gate:1") as reply:
        reply.next()
        assert upload(client, file(chatgpt(1, list("abcd"))))["added"] == {"messages": 2}
        upstream.open_gate()
        reply.rest()
    assert contents(client) == ["a", "b", "q", "w0 rest"]


def test_the_same_file_twice_at_once_is_added_once(client: Client) -> None:
    data = file(*(chatgpt(number, list("ab")) for number in range(50)))
    results: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda: results.append(upload(client, data))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result["added"].get("conversations", 0) for result in results) == 50
    assert sum(result["added"].get("messages", 0) for result in results) == 100
    assert [result["skipped"] for result in results] == [[], [], []]


def test_what_was_imported_is_known_in_another_database_too(client: Client, tmp_path: Path) -> None:
    upload(client, file(chatgpt(1, list("abcd"))))
    delete(client, 1, -1)
    exported = client.get("/v1/export").content
    (tmp_path / "other").mkdir()
    with serve(make_settings(tmp_path / "other")) as other:
        assert upload(other, exported)["added"] == {"conversations": 1, "messages": 2}
        assert upload(other, file(chatgpt(1, list("abcd"))))["added"] == {}
        assert contents(other) == list("ac")
