"""Conversations: made, listed, grouped, changed and deleted; the model is never asked."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx2
import pytest

from tests.conftest import Client, make_settings, serve
from tests.refusals import (
    LONG,
    NO_OBJECT,
    ODD,
    SECRET,
    UNPARSABLE,
    UNSTORABLE,
    UTC,
    check_refused,
    send,
)

CONVERSATIONS = "/v1/chat/conversations"
PROJECTS = "/v1/projects"
UNKNOWN = "0b8d59a1-5d1c-4977-9ee3-2d7083c108db"
EVERY_FIELD = {
    "name": "旅行",
    "system_prompt": "Be brief.",
    "model": "echo",
    "assistance_role": "guide",
    "status": 1,
    "project_id": 7,
}


def get(client: Client, conversation_id: str) -> dict[str, Any]:
    answer = client.get(f"{CONVERSATIONS}/{conversation_id}")
    assert answer.status_code == 200, answer.text
    conversation: dict[str, Any] = answer.json()
    return conversation


def update(client: Client, conversation_id: str, **body: Any) -> None:
    answer = client.put(f"{CONVERSATIONS}/{conversation_id}", json=body)
    assert (answer.status_code, answer.json()) == (200, {"message": "Conversation updated"})


def page(client: Client, **query: Any) -> list[str]:
    """The ids of one page of the list."""
    answer = client.get(CONVERSATIONS, params=query)
    assert answer.status_code == 200, answer.text
    return [conversation["id"] for conversation in answer.json()]


def groups(client: Client) -> list[tuple[str, list[str]]]:
    """The groups in order, each with its conversations' ids in order."""
    answer = client.get(f"{CONVERSATIONS}/grouped")
    assert answer.status_code == 200, answer.text
    return [(name, [one["id"] for one in group]) for name, group in answer.json().items()]


def check_not_found(answer: httpx2.Response) -> None:
    assert answer.status_code == 404, answer.text
    assert answer.json() == {"detail": "Conversation not found"}


def with_a_body(client: Client) -> list[tuple[str, str]]:
    """Where a conversation is made, and where the one that stands is changed."""
    (chat,) = page(client)
    return [("POST", CONVERSATIONS), ("PUT", f"{CONVERSATIONS}/{chat}")]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One service, with one conversation, for all that is refused: it is as before in the end."""
    with serve(make_settings(tmp_path_factory.mktemp("refused"))) as client:
        client.create(**EVERY_FIELD)
        before = client.get(CONVERSATIONS).json()
        yield client
        assert client.get(CONVERSATIONS).json() == before
        assert [project["id"] for project in client.get(PROJECTS).json()] == [7]


# Created and changed


def test_a_conversation_needs_no_field_at_all(client: Client) -> None:
    answer = client.post(CONVERSATIONS, json={})
    assert set(answer.json()) == {"conversation_id"}
    chat = str(UUID(answer.json()["conversation_id"]))
    absent = dict.fromkeys(("name", "system_prompt", "model", "assistance_role"))
    defaults = {"status": 0, "project_id": 0, "project_name": "其它"}
    conversation = get(client, chat)
    assert conversation.items() >= {"id": chat, "conversation_id": chat}.items()
    assert conversation.items() >= {**absent, **defaults}.items()


def test_a_conversation_keeps_every_field_it_is_given_and_looks_the_same_everywhere(
    client: Client,
) -> None:
    chat = client.create(**EVERY_FIELD)
    conversation = get(client, chat)
    ids = {"id": chat, "conversation_id": chat}
    times = {name: conversation[name] for name in ("created_at", "updated_at")}
    told = {"project_name": "Project 7", "active_message_id": None}
    assert conversation == {**ids, **EVERY_FIELD, **told, **times}
    assert all(UTC.fullmatch(time) for time in times.values())
    assert client.get(CONVERSATIONS).json() == [conversation]
    assert client.get(f"{CONVERSATIONS}/grouped").json() == {"Project 7": [conversation]}


def test_an_update_changes_only_what_it_names(client: Client) -> None:
    for field, value in {
        "name": "Reise",
        "system_prompt": "",
        "model": None,
        "assistance_role": "critic",
        "status": 0,
    }.items():
        before = get(client, client.create(**EVERY_FIELD))
        update(client, before["id"], **{field: value})
        after = get(client, before["id"])
        assert after == {**before, field: value, "updated_at": after["updated_at"]}
        assert after["updated_at"] > before["updated_at"]


def test_blank_counts_as_absent(client: Client) -> None:
    blank = dict.fromkeys(("name", "model", "assistance_role"), "")
    assert get(client, client.create(**blank)).items() >= dict.fromkeys(blank).items()
    chat = client.create(**EVERY_FIELD)
    update(client, chat, **blank)
    assert get(client, chat).items() >= EVERY_FIELD.items()


def test_a_conversation_moves_between_projects(client: Client) -> None:
    chat = client.create(project_id=7)
    client.put(f"{PROJECTS}/7", json={"name": "Alpha"})
    assert get(client, chat)["project_name"] == "Alpha"
    update(client, chat, project_id=8)
    assert groups(client) == [("Project 8", [chat])]
    update(client, chat, project_id=0)
    assert groups(client) == [("其它", [chat])]


def test_text_comes_back_exactly_as_it_was_sent(client: Client) -> None:
    texts = {"name": ODD, "model": ODD, "system_prompt": LONG, "assistance_role": LONG}
    chat = client.create(project_id=7, **texts)
    client.put(f"{PROJECTS}/7", json={"name": ODD})
    conversation = get(client, chat)
    assert conversation.items() >= {**texts, "project_name": ODD}.items()
    assert client.get(CONVERSATIONS).json() == [conversation]
    assert client.get(f"{CONVERSATIONS}/grouped").json() == {ODD: [conversation]}


# Listed


def test_groups_and_their_members_stand_most_recently_updated_first(client: Client) -> None:
    assert groups(client) == []
    a, b, c, d = (client.create(project_id=number) for number in (7, 0, 7, 8))
    assert groups(client) == [("Project 8", [d]), ("Project 7", [c, a]), ("其它", [b])]
    update(client, b, name="newer")
    client.say(a, "stored, not asked", role="assistant")
    assert groups(client) == [("Project 7", [a, c]), ("其它", [b]), ("Project 8", [d])]
    assert page(client) == [a, b, d, c]


def test_the_list_is_narrowed_by_project_and_status(client: Client) -> None:
    a = client.create()
    b = client.create(project_id=7, status=1)
    c = client.create(project_id=7)
    assert page(client) == [c, b, a]
    assert page(client, project_id=0) == [a]
    assert page(client, project_id=7) == [c, b]
    assert page(client, status=0) == [c, a]
    assert page(client, project_id=7, status=1) == [b]
    assert page(client, project_id=8) == []


def test_pages_hold_every_conversation_once(client: Client) -> None:
    every = [client.create(project_id=number % 2) for number in range(9)][::-1]
    assert page(client) == every
    for query in ({}, {"project_id": 0}):
        wanted, found = page(client, **query), page(client, limit=2, **query)
        for _ in wanted[2::2]:
            found += page(client, limit=2, before=found[-1], **query)
        assert found == wanted
        assert page(client, before=found[-1], **query) == []
    assert page(client, project_id=0) == every[::2]


def test_empty_parameters_count_as_absent(client: Client) -> None:
    chat = client.create()
    assert page(client, before="") == [chat]
    assert page(client, project_id="", status="", limit="") == [chat]


# Deleted


def test_a_deleted_conversation_is_gone_with_its_messages(client: Client) -> None:
    chat, other = client.create(), client.create()
    message = client.say(chat, "stored, not asked", role="system").json()["user_message_id"]
    answer = client.delete(f"{CONVERSATIONS}/{chat}")
    assert (answer.status_code, answer.json()) == (200, {"message": "Conversation deleted"})
    check_not_found(client.get(f"{CONVERSATIONS}/{chat}"))
    check_not_found(client.get(f"{CONVERSATIONS}/{chat}/messages"))
    left = client.put(f"/v1/chat/messages/{message}", json={"content": "edited"})
    assert (left.status_code, left.json()) == (404, {"detail": "Message not found"})
    assert page(client) == [other]
    assert groups(client) == [("其它", [other])]


# Refused


@pytest.mark.parametrize("chat", [UNKNOWN, 0, "abc", -1, 2**63, "%00", "%ED%A0%80"])
def test_an_id_that_names_no_conversation_is_not_found(standing: Client, chat: object) -> None:
    path = f"{CONVERSATIONS}/{chat}"
    check_not_found(standing.get(path))
    check_not_found(standing.put(path, json={"name": "new", "project_id": 8}))
    check_not_found(standing.delete(path))
    check_not_found(standing.get(CONVERSATIONS, params={"before": str(chat)}))


@pytest.mark.parametrize("field", EVERY_FIELD)
def test_a_value_of_the_wrong_type_is_refused(standing: Client, field: str) -> None:
    for value in (1.5, True, [SECRET], {"text": SECRET}):
        for method, path in with_a_body(standing):
            check_refused(standing.request(method, path, json={field: value}), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", SECRET * 12),
        ("model", SECRET * 12),
        ("status", 2),
        ("status", -1),
        ("status", "1"),
        ("project_id", -1),
        ("project_id", 2**63),
        ("project_id", "1"),
        ("project_id", SECRET),
    ],
)
def test_a_value_out_of_bounds_is_refused(standing: Client, field: str, value: object) -> None:
    for method, path in with_a_body(standing):
        check_refused(standing.request(method, path, json={field: value}), field)


@pytest.mark.parametrize("field", ["id", "conversation_id", "updated_at", "title"])
def test_an_unknown_field_is_refused_not_dropped(standing: Client, field: str) -> None:
    for method, path in with_a_body(standing):
        body = {"name": "new", field: SECRET}
        check_refused(standing.request(method, path, json=body), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project_id", "-1"),
        ("project_id", str(2**63)),
        ("project_id", SECRET),
        ("status", "2"),
        ("status", SECRET),
        ("limit", "0"),
        ("limit", SECRET),
    ],
)
def test_a_list_is_asked_for_in_known_terms(standing: Client, field: str, value: str) -> None:
    check_refused(standing.get(CONVERSATIONS, params={field: value}), field)


@pytest.mark.parametrize("body", NO_OBJECT)
def test_a_body_that_is_no_json_object_is_refused(standing: Client, body: str) -> None:
    for method, path in with_a_body(standing):
        if method != "POST" or body not in ("", "null"):  # no body makes a conversation too
            check_refused(send(standing, method, path, body))


@pytest.mark.parametrize("value", UNSTORABLE)
def test_a_value_that_could_not_come_back_as_sent_is_refused(standing: Client, value: str) -> None:
    for method, path in with_a_body(standing):
        check_refused(send(standing, method, path, f'{{"name": {value}}}'))


@pytest.mark.parametrize("value", UNPARSABLE)
def test_a_body_that_no_parser_survives_is_refused(standing: Client, value: bytes) -> None:
    for method, path in with_a_body(standing):
        check_refused(send(standing, method, path, b'{"name": %b}' % value))
