"""The life of a turn, over real sockets."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from settings import Settings
from tests.conftest import Client, database_file, serve, stream, wait_until
from tests.upstream import Upstream


def test_a_turn_is_answered_and_kept(client: Client) -> None:
    chat = client.create(model="hello")
    answer = client.say(chat, "hi").json()
    assert answer["reply"] == "你好, world!"
    user, reply = client.history(chat)
    assert (user["id"], reply["id"]) == (answer["user_message_id"], answer["assistant_message_id"])
    assert (user["role"], user["content"]) == ("user", "hi")
    assert (reply["role"], reply["content"]) == ("assistant", "你好, world!")
    assert (reply["status"], reply["finish_reason"]) == ("complete", "stop")
    assert (reply["model"], reply["provider"]) == ("hello", "openai")
    assert reply["usage"]["total_tokens"] == 8


def test_the_question_and_an_empty_reply_are_stored_before_the_upstream_answers(
    client: Client, upstream: Upstream, settings: Settings
) -> None:
    chat = client.create(model="gate:0")
    with stream(client, chat) as events:
        events.next()
        with database_file(settings) as file:
            rows = file.execute("SELECT role, content, status FROM message ORDER BY id").fetchall()
        assert rows == [("user", "hi", "complete"), ("assistant", "", "streaming")]
        upstream.open_gate()
        assert events.rest()[-1] == "[DONE]"


def test_text_reaches_the_file_while_the_upstream_is_silent(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="gate:3")
    with stream(client, chat) as events:
        events.next()
        wait_until(lambda: client.history(chat)[-1]["content"] == "w0 w1 w2 ")
        assert client.history(chat)[-1]["status"] == "streaming"
        upstream.open_gate()
        events.rest()
    assert client.history(chat)[-1]["content"] == "w0 w1 w2 rest"


def test_an_upstreams_words_are_passed_on_as_they_come(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="gate:1")
    with stream(client, chat) as events:
        assert events.next()["content"] == ""
        assert events.next() == {"content": "w0 "}
        upstream.open_gate()
        assert events.next() == {"content": "rest"}


def test_the_reply_is_in_the_history_when_done_is_sent(client: Client) -> None:
    chat = client.create(model="words:20")
    with stream(client, chat) as events:
        while events.next() != "[DONE]":
            pass
        reply = client.history(chat)[-1]
    assert reply["status"] == "complete"
    assert reply["content"] == "".join(f"w{number} " for number in range(20))


def test_a_client_that_leaves_changes_nothing(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="gate:2")
    with stream(client, chat) as events:
        for _ in range(2):
            events.next()
    upstream.open_gate()
    wait_until(lambda: client.history(chat)[-1]["status"] != "streaming")
    reply = client.history(chat)[-1]
    assert (reply["status"], reply["content"]) == ("complete", "w0 w1 rest")
    assert not upstream.calls[-1].hung_up.is_set()


def test_stop_closes_the_upstream_and_keeps_the_text(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="stall")
    with stream(client, chat) as events:
        session = events.next()["session_id"]
        while events.text != "two words":
            events.next()
        answer = client.post("/v1/chat/stop-stream", json={"session_id": session})
        assert answer.json() == {"message": "Stream stopped", "session_id": session}
        *_, final, done = events.rest()
    assert (final, done) == ({"content": "", "finish_reason": "stopped"}, "[DONE]")
    assert upstream.calls[-1].hung_up.wait(5)
    reply = client.history(chat)[-1]
    assert (reply["status"], reply["content"]) == ("stopped", "two words")


def test_a_turn_can_be_stopped_before_its_upstream_answers(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="silent")
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(client.say, chat, "hi")
        wait_until(lambda: client.history(chat))
        session = client.history(chat)[-1]["session_id"]
        client.post("/v1/chat/stop-stream", json={"session_id": session})
        answer = asking.result()
    assert (answer.status_code, answer.json()["reply"]) == (200, "")
    assert client.history(chat)[-1]["status"] == "stopped"


def test_a_second_stop_answers_the_same_and_an_unknown_one_404(client: Client) -> None:
    chat = client.create(model="hello")
    session = client.say(chat, "hi").json()["session_id"]
    for _ in range(2):
        answer = client.post("/v1/chat/stop-stream", json={"session_id": session})
        assert answer.json() == {"message": "Stream stopped", "session_id": session}
    assert client.history(chat)[-1]["status"] == "complete"
    unknown = client.post("/v1/chat/stop-stream", json={"session_id": "nobody"})
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Stream not found"})


def test_a_second_turn_in_a_conversation_is_refused_with_the_running_session(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="gate")
    with stream(client, chat) as events:
        session = events.next()["session_id"]
        refused = client.say(chat, "again")
        assert (refused.status_code, refused.json()["session_id"]) == (409, session)
        assert client.say(client.create(model="hello"), "elsewhere").status_code == 200
        upstream.open_gate()
        events.rest()
    assert [message["role"] for message in client.history(chat)] == ["user", "assistant"]
    assert client.say(chat, "now", model="hello").status_code == 200


def test_a_running_reply_can_be_neither_edited_nor_deleted(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create(model="gate")
    with stream(client, chat) as events:
        reply_id = events.next()["assistant_message_id"]
        edited = client.put(f"/v1/chat/messages/{reply_id}", json={"content": "mine"})
        deleted = client.post("/v1/chat/messages/delete", json={"message_ids": [reply_id]})
        assert (edited.status_code, deleted.status_code) == (409, 409)
        upstream.open_gate()
        events.rest()
    assert client.put(f"/v1/chat/messages/{reply_id}", json={"content": "m"}).status_code == 200


def test_deleting_a_conversation_stops_its_reply_first(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="stall")
    with stream(client, chat) as events:
        events.next()
        assert client.delete(f"/v1/chat/conversations/{chat}").status_code == 200
        assert events.rest()[-1] == "[DONE]"
    assert upstream.calls[-1].hung_up.wait(5)
    assert client.get(f"/v1/chat/conversations/{chat}/messages").status_code == 404


def test_what_was_running_when_the_service_ends_is_kept_and_told(
    settings: Settings, upstream: Upstream
) -> None:
    with ThreadPoolExecutor() as pool, ExitStack() as kept_open:
        with serve(settings) as client:
            chat = client.create(model="stall")
            events = kept_open.enter_context(stream(client, chat))
            while events.text != "two words":
                events.next()
            reading = pool.submit(events.rest)
        final, done = reading.result()
    assert (final["finish_reason"], final["error"]["status"], done) == ("error", 503, "[DONE]")
    with serve(settings) as client:
        reply = client.history(chat)[-1]
    assert (reply["status"], reply["content"]) == ("interrupted", "two words")


def test_a_reply_cut_off_by_a_crash_is_interrupted_after_the_restart(
    settings: Settings, upstream: Upstream
) -> None:
    with serve(settings) as client:
        chat = client.create(model="hello")
        client.say(chat, "hi")
    with database_file(settings) as file:
        file.execute("UPDATE message SET status = 'streaming' WHERE role = 'assistant'")
    with serve(settings) as client:
        reply = client.history(chat)[-1]
    assert (reply["status"], reply["content"]) == ("interrupted", "你好, world!")
    assert reply["error"]


@pytest.mark.parametrize(
    ("model", "status", "text"),
    [
        ("cut:after-headers", "error", ""),
        ("cut:in-text", "interrupted", "half a "),
        ("raw:data: {bad", "interrupted", "text"),
        ('raw:data: {"error": {"message": "no"}}', "interrupted", "text"),
        ("no-finish", "interrupted", "text"),
    ],
)
def test_a_failure_inside_the_stream_is_told_in_it_and_keeps_the_text(
    client: Client, model: str, status: str, text: str
) -> None:
    chat = client.create(model=model)
    with stream(client, chat) as events:
        *before, final, done = events.rest()
    assert "".join(event["content"] for event in before) == text
    assert (final["finish_reason"], final["error"]["status"], done) == ("error", 502, "[DONE]")
    reply = client.history(chat)[-1]
    assert (reply["status"], reply["content"]) == (status, text)
    assert reply["error"] == final["error"]["detail"]


def test_a_failed_reply_without_text_is_not_sent_to_the_model(
    client: Client, upstream: Upstream
) -> None:
    chat = client.create()
    client.say(chat, "first", model="refuse:400")
    client.say(chat, "second", model="hello")
    assert upstream.calls[-1].body["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "second"},
    ]
