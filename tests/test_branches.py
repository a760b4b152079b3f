"""Conversations as trees: other replies, other continuations, and which branch is active."""

from typing import Any

import pytest

from tests.conftest import Client, stream
from tests.upstream import Upstream


def regenerate(client: Client, message_id: int, **body: Any) -> Any:
    return client.post(f"/v1/chat/messages/{message_id}/regenerate", json=body)


def contents(client: Client, chat: str) -> list[str]:
    return [message["content"] for message in client.history(chat)]


def tree(client: Client, chat: str) -> list[dict[str, Any]]:
    path = f"/v1/chat/conversations/{chat}/messages"
    messages: list[dict[str, Any]] = client.get(path, params={"all": "true"}).json()["messages"]
    return messages


def test_another_reply_becomes_the_active_branch_and_the_old_one_is_kept(client: Client) -> None:
    chat = client.create(model="hello")
    first = client.say(chat, "hi").json()
    second = regenerate(client, first["assistant_message_id"], model="words:2").json()
    assert second["user_message_id"] == first["user_message_id"]
    assert second["reply"] == "w0 w1 "
    assert contents(client, chat) == ["hi", "w0 w1 "]
    assert [(m["content"], m["parent_id"], m["active"]) for m in tree(client, chat)] == [
        ("hi", None, True),
        ("你好, world!", first["user_message_id"], False),
        ("w0 w1 ", first["user_message_id"], True),
    ]


def test_another_reply_can_be_streamed(client: Client) -> None:
    chat = client.create(model="hello")
    reply_id = client.say(chat, "hi").json()["assistant_message_id"]
    answer = regenerate(client, reply_id, stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert len(tree(client, chat)) == 3


def test_asking_again_asks_the_same_of_the_same_model(client: Client, upstream: Upstream) -> None:
    body = {"project_id": 0, "category_id": 5, "filename": "a", "content": "facts"}
    document = client.post("/v1/plan/documents", json=body).json()
    chat = client.create(model="hello")
    client.say(chat, "before")
    reply_id = client.say(
        chat,
        "hi",
        model="words:1",
        documents=[document["id"]],
        system_prompt_append="briefly",
        options={"temperature": 0.5},
    ).json()["assistant_message_id"]
    regenerate(client, reply_id)
    assert upstream.calls[-1].body == upstream.calls[-2].body
    regenerate(client, reply_id, model="hello", options={})
    assert upstream.calls[-1].body["model"] == "hello"
    assert "temperature" not in upstream.calls[-1].body
    client.delete(f"/v1/plan/documents/{document['id']}")
    regenerate(client, reply_id)
    assert upstream.calls[-1].body["messages"][0] == {"role": "system", "content": "briefly"}


def test_a_question_that_lost_its_reply_can_be_asked_again(client: Client) -> None:
    chat = client.create(model="hello")
    turn = client.say(chat, "hi").json()
    client.post("/v1/chat/messages/delete", json={"message_ids": [turn["assistant_message_id"]]})
    assert regenerate(client, turn["user_message_id"]).json()["reply"] == "你好, world!"
    assert contents(client, chat) == ["hi", "你好, world!"]


def test_a_turn_may_continue_from_an_earlier_message(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="repeat")
    first = client.say(chat, "one").json()
    client.say(chat, "two")
    client.say(chat, "three", parent_id=first["assistant_message_id"])
    assert contents(client, chat) == ["one", "one", "three", "three"]
    asked = [message["content"] for message in upstream.calls[-1].body["messages"]]
    assert asked == ["one", "one", "three"]


def test_a_turn_may_start_over(client: Client) -> None:
    chat = client.create(model="repeat", system_prompt="be kind")
    client.say(chat, "one")
    client.say(chat, "uno", parent_id=0)
    assert contents(client, chat) == ["be kind", "uno", "uno"]
    assert [message["active"] for message in tree(client, chat)] == [True, False, False, True, True]


def test_the_active_branch_can_be_switched(client: Client) -> None:
    chat = client.create(model="repeat")
    one = client.say(chat, "one").json()
    two = client.say(chat, "two").json()
    client.say(chat, "three", parent_id=one["assistant_message_id"])
    body = {"active_message_id": two["assistant_message_id"]}
    assert client.put(f"/v1/chat/conversations/{chat}", json=body).status_code == 200
    assert contents(client, chat) == ["one", "one", "two", "two"]
    detail = client.get(f"/v1/chat/conversations/{chat}").json()
    assert detail["active_message_id"] == two["assistant_message_id"]


def test_messages_of_other_conversations_are_not_found(client: Client) -> None:
    chat, other = client.create(model="hello"), client.create(model="hello")
    theirs = client.say(other, "hi").json()["assistant_message_id"]
    switched = client.put(f"/v1/chat/conversations/{chat}", json={"active_message_id": theirs})
    continued = client.say(chat, "hi", parent_id=theirs)
    for answer in (switched, continued, regenerate(client, 999)):
        assert (answer.status_code, answer.json()) == (404, {"detail": "Message not found"})
    assert contents(client, chat) == []


@pytest.mark.parametrize("parent_id", [-1, 2**63, "1", True])
def test_a_parent_that_can_be_none_is_refused(client: Client, parent_id: Any) -> None:
    assert client.say(client.create(model="hello"), "hi", parent_id=parent_id).status_code == 422


def test_deleting_in_the_middle_keeps_every_branch_below(client: Client) -> None:
    chat = client.create(model="repeat")
    one = client.say(chat, "one").json()
    two = client.say(chat, "two").json()
    three = client.say(chat, "three", parent_id=one["assistant_message_id"]).json()
    body = {"message_ids": [one["user_message_id"], one["assistant_message_id"]]}
    client.post("/v1/chat/messages/delete", json=body)
    assert contents(client, chat) == ["three", "three"]
    client.put(
        f"/v1/chat/conversations/{chat}",
        json={"active_message_id": two["assistant_message_id"]},
    )
    assert contents(client, chat) == ["two", "two"]
    roots = {message["id"] for message in tree(client, chat) if message["parent_id"] is None}
    assert roots == {two["user_message_id"], three["user_message_id"]}


def test_deleting_the_whole_active_branch_shows_another(client: Client) -> None:
    chat = client.create(model="repeat")
    client.say(chat, "one")
    two = client.say(chat, "two", parent_id=0).json()
    ids = [two["user_message_id"], two["assistant_message_id"]]
    client.post("/v1/chat/messages/delete", json={"message_ids": ids})
    assert contents(client, chat) == ["one", "one"]


def test_deleting_the_active_reply_makes_its_question_the_end(client: Client) -> None:
    chat = client.create(model="hello")
    reply_id = client.say(chat, "hi").json()["assistant_message_id"]
    client.post("/v1/chat/messages/delete", json={"message_ids": [reply_id]})
    assert contents(client, chat) == ["hi"]


def test_nothing_is_asked_again_while_a_reply_is_written(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="gate")
    with stream(client, chat) as events:
        first = events.next()
        for message_id in (first["user_message_id"], first["assistant_message_id"]):
            refused = regenerate(client, message_id)
            assert refused.status_code == 409
            assert refused.json()["session_id"] == first["session_id"]
        upstream.open_gate()
        events.rest()
    assert len(upstream.calls) == 1
