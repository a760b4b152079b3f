"""What a model is sent."""

from typing import Any

import pytest

import context
from context import compose, shorten
from models import Conversation, Document, Message
from tests.conftest import Client, stream
from tests.upstream import Upstream

KIND = Conversation(system_prompt="Be kind.")
PILOT = Conversation(assistance_role="pilot")
BOTH = Conversation(system_prompt="Be kind.", assistance_role="pilot")
A = Document(id=1, category_id=1, filename="a.md", content="Facts.")
B = Document(id=2, category_id=1, filename="b.md", content="{doc}\n")
ROLE = "Your role in this conversation: pilot"
A_TEXT = "----- a.md BEGIN -----\nFacts.\n----- a.md END -----"
B_TEXT = "----- b.md BEGIN -----\n{doc}\n\n----- b.md END -----"


def message(role: str, content: str, **more: Any) -> Message:
    return Message(conversation_id="x", role=role, content=content, **more)


@pytest.mark.parametrize(
    ("conversation", "documents", "append", "system"),
    [
        (Conversation(), [], None, None),
        (Conversation(system_prompt=""), [], "", None),
        (KIND, [], None, "Be kind."),
        (PILOT, [], None, ROLE),
        (BOTH, [], None, f"Be kind.\n\n{ROLE}"),
        (Conversation(), [A], None, A_TEXT),
        (KIND, [A, B], None, f"Be kind.\n\n{A_TEXT}\n\n{B_TEXT}"),
        (Conversation(), [], "Briefly.", "Briefly."),
        (BOTH, [A], "Briefly.", f"Be kind.\n\n{ROLE}\n\n{A_TEXT}\n\nBriefly."),
    ],
)
def test_all_that_is_not_said_is_one_system_message(
    conversation: Conversation, documents: list[Document], append: str | None, system: str | None
) -> None:
    prompt = compose(conversation, documents, append, [message("user", "hi")])
    expected = [{"role": "system", "content": system}] if system else []
    assert prompt == [*expected, {"role": "user", "content": "hi"}]


def test_the_branch_follows_as_it_was_said() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    branch = [
        message("user", "", parts=parts),
        message("assistant", "", status="error"),
        message("assistant", "", extra={"tool_calls": calls}),
        message("tool", "12:00", extra={"tool_call_id": "1"}),
        message("assistant", "half", status="interrupted"),
        message("system", "in between"),
        message("user", "{doc} {env}"),
    ]
    assert compose(Conversation(), [], None, branch) == [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "12:00", "tool_call_id": "1"},
        {"role": "assistant", "content": "half"},
        {"role": "system", "content": "in between"},
        {"role": "user", "content": "{doc} {env}"},
    ]


def said(*contents: str, system: bool = True) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * len(contents)
    turns = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": "S"}, *turns] if system else turns


@pytest.mark.parametrize(
    ("before", "after", "omitted"),
    [
        (said("a" * 10, "b" * 10, "c" * 10, "d" * 10, "e"), said("c" * 10, "d" * 10, "e")[:0], 4),
        (said("a", "b", "c" * 10), said("c" * 10), 2),
        (said("a" * 9, "b" * 9, "c", "d", "e", system=False), said("c", "d", "e", system=False), 2),
    ],
)
def test_the_oldest_turns_are_left_out(
    before: list[dict[str, Any]], after: list[dict[str, Any]], omitted: int
) -> None:
    shorter = shorten(before)
    assert shorter is not None
    assert shorter[1] == omitted
    assert shorter[0] == (after or said("e"))


@pytest.mark.parametrize("prompt", [[], said(), said("only"), said("only", "reply", system=False)])
def test_nothing_is_left_out_of_one_question(prompt: list[dict[str, Any]]) -> None:
    assert shorten(prompt) is None


def test_size_counts_texts_and_tokens_are_guessed() -> None:
    prompt = said("你好", "abcdefgh", system=False)
    prompt.append({"role": "user", "content": [{"type": "text", "text": "abcd"}, {"type": "x"}]})
    assert context.size(prompt) == 14
    assert context.estimated_tokens(prompt) == 2 + 3


def test_the_context_is_what_the_next_turn_sends(client: Client, upstream: Upstream) -> None:
    chat = client.create(system_prompt="Be kind.", assistance_role="pilot", model="hello")
    client.say(chat, "one")
    shown = client.get(f"/v1/chat/conversations/{chat}/context").json()
    client.say(chat, "two")
    sent = upstream.calls[-1].body["messages"]
    assert [*shown["messages"], {"role": "user", "content": "two"}] == sent
    assert shown["characters"] == context.size(shown["messages"])
    assert shown["estimated_tokens"] > 0
    missing = client.get("/v1/chat/conversations/nowhere/context")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Conversation not found"})


@pytest.mark.parametrize("way", ["code", "413"])
def test_a_conversation_too_long_for_the_model_keeps_working(
    client: Client, upstream: Upstream, way: str
) -> None:
    chat = client.create(model="hello", system_prompt="S")
    for number in range(4):
        client.say(chat, f"{number}" * 100)
    answer = client.say(chat, "last", model=f"cramped:300:{way}").json()
    assert (answer["reply"], answer["omitted"]) == ("你好, world!", 6)
    contents = [m["content"] for m in upstream.calls[-1].body["messages"]]
    assert contents == ["S", "3" * 100, "你好, world!", "last"]
    assert len(client.history(chat)) == 11
    assert client.history(chat)[-1]["omitted"] == 6
    with stream(client, chat, "again", model=f"cramped:300:{way}") as events:
        assert events.rest()[-2]["omitted"] > 0


def test_what_cannot_be_made_shorter_is_told(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="cramped:3")
    answer = client.say(chat, "much too long")
    assert (answer.status_code, answer.json()["detail"]) == (400, "Too long")
    assert len(upstream.calls) == 1
