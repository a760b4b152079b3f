"""Messages over HTTP: the bytes of part 1, and what is refused."""

import json
import re
from typing import Any

import pytest

from tests.conftest import Client, stream
from tests.upstream import Upstream


def send(client: Client, chat: str, **body: Any) -> Any:
    return client.post(f"/v1/chat/conversations/{chat}/messages", json=body)


def test_a_stream_is_framed_as_existing_clients_read_it(client: Client) -> None:
    chat = client.create(model="words:3")
    answer = client.say(chat, "hi", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    body = answer.content
    assert b"\r" not in body
    assert body.endswith(b"\n\ndata: [DONE]\n\n")
    blocks = body.decode().removesuffix("\n\n").split("\n\n")
    assert all(re.fullmatch(r"data: [^\n]+", block) for block in blocks)
    events = [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]
    assert all(isinstance(event["content"], str) for event in events)
    first, last = events[0], events[-1]
    reply = client.history(chat)[-1]
    assert first == {
        "content": "",
        "user_message_id": reply["id"] - 1,
        "assistant_message_id": reply["id"],
        "conversation_id": chat,
        "session_id": reply["session_id"],
    }
    assert last == {"content": "", "finish_reason": "stop", "usage": reply["usage"]}
    assert "".join(event["content"] for event in events) == reply["content"] == "w0 w1 w2 "


def test_a_turn_that_is_not_streamed_answers_with_the_reply(client: Client) -> None:
    chat = client.create(model="hello")
    answer = client.say(chat, "hi")
    user, reply = client.history(chat)
    assert answer.json() == {
        "conversation_id": chat,
        "reply": "你好, world!",
        "user_message_id": user["id"],
        "assistant_message_id": reply["id"],
        "session_id": reply["session_id"],
        "model": "hello",
        "finish_reason": "stop",
        "usage": reply["usage"],
        "omitted": None,
    }


def test_line_ends_of_some_clients_are_escaped_in_events(client: Client) -> None:
    content = "a\u2028b\u2029c\x85d\r\ne"
    answer = client.say(client.create(model="repeat"), content, stream=True)
    assert len(answer.text.splitlines()) == len(answer.text.split("\n")) - 1
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert "".join(json.loads(event)["content"] for event in events[:-1]) == content


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("role", ["system", "assistant"])
def test_other_roles_are_stored_and_ask_nothing(
    client: Client, upstream: Upstream, role: str, streamed: bool
) -> None:
    chat = client.create(model="hello")
    answer = send(client, chat, role=role, content="remember", stream=streamed)
    stored = client.history(chat)[0]
    assert (stored["role"], stored["content"]) == (role, "remember")
    assert upstream.calls == []
    reply_id = stored["id"] if role == "assistant" else None
    if streamed:
        first, done, _ = answer.text.split("\n\n")
        assert json.loads(first.removeprefix("data: "))["assistant_message_id"] == reply_id
        assert done == "data: [DONE]"
    else:
        assert answer.json()["reply"] is None
        assert answer.json()["user_message_id"] == stored["id"]
        assert answer.json()["assistant_message_id"] == reply_id


def test_the_model_is_sent_what_history_shows(client: Client, upstream: Upstream) -> None:
    chat = client.create(system_prompt="be kind", assistance_role="pilot", model="hello")
    client.say(chat, "one")
    send(client, chat, role="system", content="two")
    send(client, chat, role="assistant", content="three")
    client.say(chat, "four", system_prompt_append="briefly")
    assert upstream.calls[-1].body["messages"] == [
        {
            "role": "system",
            "content": "be kind\n\nYour role in this conversation: pilot\n\nbriefly",
        },
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "你好, world!"},
        {"role": "system", "content": "two"},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    history = client.history(chat)
    assert (history[0]["role"], history[0]["content"]) == ("system", "be kind")
    assert [message["content"] for message in history[1:]] == [
        *("one", "你好, world!", "two", "three", "four", "你好, world!")
    ]


def test_documents_of_a_turn_are_in_that_turns_context_only(
    client: Client, upstream: Upstream
) -> None:
    body = {"project_id": 1, "category_id": 5, "filename": "a.md", "content": "facts"}
    document = client.post("/v1/plan/documents", json=body).json()
    chat = client.create(model="hello")
    client.say(chat, "one", documents=[document["id"]])
    client.say(chat, "two")
    first, second = (call.body["messages"] for call in upstream.calls)
    assert first[0] == {
        "role": "system",
        "content": "----- a.md BEGIN -----\nfacts\n----- a.md END -----",
    }
    assert second[0] == {"role": "user", "content": "one"}


def test_options_are_handed_to_the_model_call(client: Client, upstream: Upstream) -> None:
    options = {"temperature": 0.5, "reasoning_effort": "low", "thinking": {"budget": 5}}
    client.say(client.create(model="hello"), "hi", options=options)
    assert options.items() <= upstream.calls[-1].body.items()


@pytest.mark.parametrize("name", ["model", "messages", "stream", "base_url", "api_key", "headers"])
def test_what_the_service_sets_itself_cannot_be_overridden(
    client: Client, upstream: Upstream, name: str
) -> None:
    answer = client.say(client.create(model="hello"), "hi", options={name: "x"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "options"
    assert upstream.calls == []


def test_content_parts_are_stored_and_sent_as_they_are(client: Client, upstream: Upstream) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "x"}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:;base64,AA=="}}
    parts = [{"type": "text", "text": "看图\nmore"}, image, file]
    chat = client.create(model="hello")
    client.say(chat, parts)
    assert upstream.calls[-1].body["messages"][-1]["content"] == parts
    user = client.history(chat)[0]
    assert (user["content"], user["parts"]) == ("看图\nmore", parts)
    assert client.get(f"/v1/chat/conversations/{chat}").json()["name"] == "看图"


@pytest.mark.parametrize(
    "body",
    [
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "user", "content": [{"type": "video", "video": "x"}]},
        {"role": "user", "content": "a\0b"},
        {"role": "robot", "content": "x"},
        {"role": "system", "content": "x", "options": {"temperature": 1}},
        {"role": "assistant", "content": "x", "system_prompt_append": "y"},
        {"role": "tool", "content": "x"},
        {"content": "x"},
        {"role": "user"},
        {"role": "user", "content": "x", "stream": "yes"},
        {"role": "user", "content": "x", "unknown": 1},
        {"role": "user", "content": "x", "documents": [0]},
        {"role": "user", "content": "x", "documents": [2**63]},
        {"role": "user", "content": "x", "documents": ["1"]},
        {"role": "user", "content": "x", "options": []},
        [],
        "x",
        None,
    ],
)
def test_a_bad_message_is_a_422_and_nothing_is_stored(client: Client, body: Any) -> None:
    chat = client.create(model="echo")
    answer = client.post(f"/v1/chat/conversations/{chat}/messages", json=body)
    assert answer.status_code == 422, answer.text
    assert isinstance(answer.json()["detail"], str)
    assert all(error.keys() == {"field", "message"} for error in answer.json()["errors"])
    assert client.history(chat) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failure_before_the_stream_is_an_http_error(client: Client, streamed: bool) -> None:
    unknown = client.say("nowhere", "hi", stream=streamed)
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Conversation not found"})
    chat = client.create()
    missing = client.say(chat, "hi", model="hello", documents=[99], stream=streamed)
    assert (missing.status_code, missing.json()) == (404, {"detail": "Document not found"})
    assert client.say(chat, "hi", model="poe/x", stream=streamed).status_code == 401
    assert client.say(chat, "hi", stream=streamed).status_code == 422
    assert client.history(chat) == []


def test_a_message_can_be_edited(client: Client) -> None:
    chat = client.create(model="echo")
    user_id = client.say(chat, "hi").json()["user_message_id"]
    before = client.get(f"/v1/chat/conversations/{chat}").json()["updated_at"]
    body = {"content": "你好", "created_at": "2020-01-02T03:04:05+08:00"}
    answer = client.put(f"/v1/chat/messages/{user_id}", json=body)
    assert answer.json() == {"message": "Message updated"}
    message = client.history(chat)[0]
    assert message["content"] == "你好"
    assert message["created_at"] == "2020-01-01T19:04:05.000000Z"
    assert client.get(f"/v1/chat/conversations/{chat}").json()["updated_at"] > before


def test_an_edit_without_a_time_keeps_the_time(client: Client) -> None:
    chat = client.create(model="echo")
    user_id = client.say(chat, "hi").json()["user_message_id"]
    before = client.history(chat)[0]["created_at"]
    client.put(f"/v1/chat/messages/{user_id}", json={"content": "x"})
    assert client.history(chat)[0]["created_at"] == before


@pytest.mark.parametrize(
    "time", ["yesterday", 5, "10000-01-01T00:00:00Z", "0001-01-01T00:00+14:00"]
)
def test_a_time_that_is_none_is_refused(client: Client, time: Any) -> None:
    user_id = client.say(client.create(model="echo"), "hi").json()["user_message_id"]
    body = {"content": "x", "created_at": time}
    assert client.put(f"/v1/chat/messages/{user_id}", json=body).status_code == 422


@pytest.mark.parametrize("message_id", ["1", "0", "-1", "abc", str(2**63), "9" * 5000])
def test_an_unknown_message_is_not_found(client: Client, message_id: str) -> None:
    answer = client.put(f"/v1/chat/messages/{message_id}", json={"content": "x"})
    assert (answer.status_code, answer.json()) == (404, {"detail": "Message not found"})


def test_deleted_messages_are_counted_and_the_rest_hangs_together(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="hello")
    first, second = client.say(chat, "one").json(), client.say(chat, "two").json()
    gone = [first["assistant_message_id"], second["user_message_id"], 999]
    answer = client.post("/v1/chat/messages/delete", json={"message_ids": gone + gone})
    assert answer.json() == {"message": "2 messages deleted"}
    left = [first["user_message_id"], second["assistant_message_id"]]
    assert [message["id"] for message in client.history(chat)] == left
    client.say(chat, "three")
    contents = [message["content"] for message in upstream.calls[-1].body["messages"]]
    assert contents == ["one", "你好, world!", "three"]


def test_deleting_every_message_leaves_an_empty_conversation(client: Client) -> None:
    chat = client.create(model="echo")
    ids = list(client.say(chat, "one").json().values())[2:4]
    client.post("/v1/chat/messages/delete", json={"message_ids": ids})
    assert client.history(chat) == []
    client.say(chat, "two")
    assert [message["content"] for message in client.history(chat)] == ["two", "two"]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("short", "short"),
        ("\n  \n  first line  \nsecond", "first line"),
        ("一二三四五六七八九十" * 4, "一二三四五六七八九十" * 3 + "一二"),
        ("   ", None),
    ],
)
def test_a_conversation_without_a_name_takes_it_from_its_first_message(
    client: Client, content: str, name: str | None
) -> None:
    chat = client.create(model="echo")
    client.say(chat, content)
    assert client.get(f"/v1/chat/conversations/{chat}").json()["name"] == name


def test_a_given_name_stays(client: Client) -> None:
    chat = client.create(model="echo", name="mine")
    client.say(chat, "another")
    assert client.get(f"/v1/chat/conversations/{chat}").json()["name"] == "mine"


def test_text_round_trips_exactly(client: Client) -> None:
    content = "\ufeff\t «‏עברית‏» 👩‍👩‍👧 e\u0301 \\n \"' <b> \u2028 " + "字" * 100_000
    chat = client.create(model="repeat")
    with stream(client, chat, content) as events:
        told = "".join(event["content"] for event in events.rest()[:-1])
    assert told == content
    assert [message["content"] for message in client.history(chat)] == [content, content]


def page(client: Client, chat: str, **query: Any) -> list[tuple[int, str]]:
    answer = client.get(f"/v1/chat/conversations/{chat}/messages", params=query)
    assert answer.status_code == 200, answer.text
    return [(message["id"], message["content"]) for message in answer.json()["messages"]]


@pytest.mark.parametrize("branches", ["false", "true"])
def test_a_history_can_be_read_in_pages_from_its_end(client: Client, branches: str) -> None:
    chat = client.create(system_prompt="Be brief", model="echo")
    for number in range(5):
        client.say(chat, str(number)).raise_for_status()
    whole = page(client, chat, all=branches)
    assert len(whole) == 11
    read = page(client, chat, all=branches, limit=4)
    assert read == whole[-4:]
    while read[0][0]:
        read = page(client, chat, all=branches, limit=4, before=read[0][0]) + read
    assert read == whole
    assert page(client, chat, all=branches, limit=4, before=whole[1][0]) == whole[:1]
    assert page(client, chat, all=branches, limit="", before="") == whole


def test_a_page_before_a_message_of_another_branch_leads_to_it(client: Client) -> None:
    chat = client.create(model="echo")
    client.say(chat, "a").raise_for_status()
    aside = client.say(chat, "aside").json()["user_message_id"]
    client.say(chat, "b", parent_id=0).raise_for_status()
    assert [text for _, text in page(client, chat)] == ["b", "b"]
    assert [text for _, text in page(client, chat, before=aside, limit=9)] == ["a", "a"]


def test_a_page_of_nothing_is_refused(client: Client) -> None:
    chat = client.create()
    path = f"/v1/chat/conversations/{chat}/messages"
    for query in ("limit=0", "limit=x", "before=-1"):
        assert client.get(f"{path}?{query}").status_code == 422
    for query in ("before=5", "before=5&all=true"):
        assert client.get(f"{path}?{query}").json() == {"detail": "Message not found"}
