"""Documents made from chats."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from drafting import fill
from settings import Settings
from tests.conftest import Client, database_file, serve, wait_until
from tests.upstream import Upstream


def generate(client: Client, chat: str, category_id: int = 1, **body: Any) -> httpx2.Response:
    body = {"conversation_id": chat, "category_id": category_id, **body}
    return client.post("/v1/plan/documents/generate", json=body)


def discussed(client: Client, **body: Any) -> str:
    """A conversation with one turn."""
    chat = client.create(**{"model": "hello", **body})
    client.say(chat, "a boat")
    return chat


def drafts(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/plan/drafts").json()
    return found


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{doc}", "CHAT {env} {doc}"),
        ("in {env}:\n{doc}", "in ENV {doc}:\nCHAT {env} {doc}"),
        ("{doc}{doc}{env}", "CHAT {env} {doc}CHAT {env} {doc}ENV {doc}"),
        ("no place", "no place\n\nCHAT {env} {doc}"),
        ("only {env}\n", "only ENV {doc}\n\nCHAT {env} {doc}"),
        ("{other} {} {{doc}}", "{other} {} {CHAT {env} {doc}}"),
        ("", "CHAT {env} {doc}"),
    ],
)
def test_placeholders_are_replaced_once_and_literally(template: str, filled: str) -> None:
    assert fill(template, "CHAT {env} {doc}", "ENV {doc}") == filled


def test_a_document_is_made_from_a_chat_and_says_where_it_came_from(
    client: Client, upstream: Upstream
) -> None:
    project = {"name": "boats", "dev_environment": "a shed"}
    project_id = client.post("/v1/projects", json=project).json()["id"]
    chat = discussed(client, project_id=project_id, name="Boat")
    document = generate(client, chat).json()
    template = client.get("/v1/plan/categories/1").json()["prompt_template"]
    (asked,) = upstream.calls[-1].body["messages"]
    chat_text = "[user]\na boat\n\n[assistant]\n你好, world!"
    assert asked["content"] == template.replace("{env}", "a shed").replace("{doc}", chat_text)
    today = datetime.now(UTC).date().isoformat()
    assert document["filename"] == f"需求计划 Boat {today}.md"
    assert (document["content"], document["source"]) == ("你好, world!", "chat")
    assert (document["version"], document["project_id"]) == (1, project_id)
    assert document["conversation_id"] == chat
    assert document["message_ids"] == [message["id"] for message in client.history(chat)]
    assert document["template_hash"] == hashlib.sha256(template.encode()).hexdigest()
    assert (document["model"], document["usage"]["total_tokens"]) == ("hello", 8)
    assert document["stale"] is False
    assert client.get(f"/v1/plan/documents/{document['id']}").json() == document
    assert generate(client, chat).json()["version"] == 2
    assert drafts(client) == []


def test_a_document_is_streamed_like_a_turn(client: Client) -> None:
    answer = generate(client, discussed(client), stream=True)
    blocks = [block.removeprefix("data: ") for block in answer.text.split("\n\n")]
    first, *pieces, last = (json.loads(block) for block in blocks[:-2])
    assert blocks[-2:] == ["[DONE]", ""]
    assert (first["content"], last["finish_reason"]) == ("", "stop")
    document = client.get(f"/v1/plan/documents/{last['document_id']}").json()
    assert "".join(piece["content"] for piece in pieces) == document["content"]
    assert last["version"] == document["version"] == 1


def test_the_model_is_the_requests_else_the_categorys_else_the_conversations(
    client: Client, upstream: Upstream
) -> None:
    chat = discussed(client)
    generate(client, chat)
    client.put("/v1/plan/categories/1", json={"summary_model": "words:2"})
    generate(client, chat)
    generate(client, chat, model="words:3")
    assert [call.body["model"] for call in upstream.calls[1:]] == ["hello", "words:2", "words:3"]


def test_messages_may_be_chosen(client: Client, upstream: Upstream) -> None:
    chat = discussed(client)
    user = client.history(chat)[0]["id"]
    client.say(chat, "more")
    document = generate(client, chat, 5, message_ids=[user], filename="one.md").json()
    assert (document["message_ids"], document["filename"]) == ([user], "one.md")
    assert upstream.calls[-1].body["messages"][0]["content"] == "[user]\na boat"


@pytest.mark.parametrize("change", ["edit", "delete"])
def test_a_document_whose_messages_changed_is_stale(client: Client, change: str) -> None:
    chat = discussed(client)
    document = generate(client, chat).json()
    message_id = document["message_ids"][0]
    client.say(chat, "something new changes nothing")
    assert client.get(f"/v1/plan/documents/{document['id']}").json()["stale"] is False
    if change == "edit":
        client.put(f"/v1/chat/messages/{message_id}", json={"content": "a ship"})
    else:
        client.post("/v1/chat/messages/delete", json={"message_ids": [message_id]})
    assert client.get(f"/v1/plan/documents/{document['id']}").json()["stale"] is True
    (latest,) = client.get("/v1/plan/documents/latest").json()["items"]
    assert latest["stale"] is True


def test_a_client_that_leaves_gets_its_document(client: Client, upstream: Upstream) -> None:
    chat = discussed(client)
    body = {"conversation_id": chat, "category_id": 1, "model": "gate:2", "stream": True}
    with client.stream("POST", "/v1/plan/documents/generate", json=body) as answer:
        next(answer.iter_bytes())
    assert [draft["status"] for draft in drafts(client)] == ["streaming"]
    upstream.open_gate()
    wait_until(lambda: not drafts(client))
    (document,) = client.get("/v1/plan/documents/latest").json()["items"]
    assert document["content"] == "w0 w1 rest"


@pytest.mark.parametrize("model", ["short:length", "short:content_filter", "words:0"])
def test_an_answer_that_was_cut_short_or_is_empty_is_no_document(
    client: Client, model: str
) -> None:
    answer = generate(client, discussed(client), model=model)
    assert (answer.status_code, len(drafts(client))) == (502, 1)
    assert client.get("/v1/plan/documents/latest").json()["total"] == 0


def test_a_category_is_not_deleted_under_a_document_that_is_being_made(
    client: Client, upstream: Upstream
) -> None:
    category = client.post("/v1/plan/categories", json={"name": "mine"}).json()["id"]
    path = f"/v1/plan/categories/{category}"
    chat = discussed(client)
    body = {"conversation_id": chat, "category_id": category, "model": "gate", "stream": True}
    with client.stream("POST", "/v1/plan/documents/generate", json=body) as answer:
        assert client.delete(path, params={"force": "true"}).status_code == 409
        upstream.open_gate()
        assert b"[DONE]" in answer.read()
    assert client.delete(path).status_code == 409
    assert client.delete(path, params={"force": "true"}).status_code == 200


@pytest.mark.parametrize("model", ["cut:in-text", "no-finish", "refuse:402"])
def test_what_is_not_whole_stays_a_draft(client: Client, model: str) -> None:
    chat = discussed(client)
    status = 402 if model == "refuse:402" else 502
    assert generate(client, chat, model=model).status_code == status
    assert client.get("/v1/plan/documents/latest").json()["total"] == 0
    (draft,) = drafts(client)
    assert draft["status"] in ("interrupted", "error")
    assert client.delete(f"/v1/plan/drafts/{draft['id']}").status_code == 200
    assert client.delete(f"/v1/plan/drafts/{draft['id']}").json() == {"detail": "Draft not found"}
    assert drafts(client) == []


def test_a_draft_can_be_stopped(client: Client) -> None:
    chat = discussed(client)
    body = {"conversation_id": chat, "category_id": 1, "model": "stall", "stream": True}
    with client.stream("POST", "/v1/plan/documents/generate", json=body) as answer:
        (draft,) = drafts(client)
        assert client.delete(f"/v1/plan/drafts/{draft['id']}").status_code == 409
        stop = {"session_id": draft["session_id"]}
        assert client.post("/v1/chat/stop-stream", json=stop).status_code == 200
        assert '"finish_reason": "stopped"' in answer.read().decode()
    assert client.post("/v1/chat/stop-stream", json=stop).status_code == 200
    assert drafts(client)[0]["status"] == "stopped"
    assert client.get("/v1/plan/documents/latest").json()["total"] == 0


def test_a_crash_leaves_an_interrupted_draft_and_no_document(
    settings: Settings, upstream: Upstream
) -> None:
    with serve(settings) as client:
        generate(client, discussed(client), model="cut:in-text")
    with database_file(settings) as file:
        file.execute("UPDATE plan_draft SET status = 'streaming'")
    with serve(settings) as client:
        (draft,) = drafts(client)
        assert (draft["status"], draft["content"]) == ("interrupted", "half a ")
        assert client.get("/v1/plan/documents/latest").json()["total"] == 0


def test_many_documents_may_be_made_at_once_beside_a_turn(
    client: Client, upstream: Upstream
) -> None:
    chat = discussed(client)
    body = {"conversation_id": chat, "category_id": 1, "model": "gate", "stream": True}
    with (
        client.stream("POST", "/v1/plan/documents/generate", json=body) as first,
        client.stream("POST", "/v1/plan/documents/generate", json=body) as second,
    ):
        assert client.say(chat, "meanwhile").status_code == 200
        upstream.open_gate()
        assert [b"[DONE]" in answer.read() for answer in (first, second)] == [True, True]
    assert client.get("/v1/plan/documents/latest").json()["items"][0]["version"] == 2


def test_what_cannot_be_made_is_told(client: Client) -> None:
    chat = discussed(client)
    empty = client.create(model="hello")
    other = client.history(discussed(client))[0]["id"]
    for answer, status in (
        (generate(client, "nowhere"), 404),
        (generate(client, chat, 99), 404),
        (generate(client, chat, message_ids=[other]), 404),
        (generate(client, chat, message_ids=[]), 422),
        (generate(client, empty), 409),
        (generate(client, chat, filename="x" * 256), 422),
        (generate(client, chat, unknown=1), 422),
    ):
        assert answer.status_code == status, answer.text
    assert drafts(client) == []
