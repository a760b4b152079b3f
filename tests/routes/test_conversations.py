"""Conversations: made, listed, grouped, changed and deleted; the model is never asked."""

import re
from typing import Any
from uuid import UUID, uuid4

import httpx2

from tests.conftest import Client

CONVERSATIONS = "/v1/chat/conversations"
PROJECTS = "/v1/projects"
UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SECRET = "sent-and-never-repeated"
EVERY_FIELD = {
    "name": "旅行",
    "system_prompt": "Be brief.",
    "model": "echo",
    "assistance_role": "guide",
    "status": 1,
    "project_id": 7,
}
ODD = '👩‍👧 \u202eعربي שלום\r\nline\rend\n\u2028\u2029\x85\x01\x7f\t"\\/\ufeff\uffff '
LONG = ODD + "汉字" * 17_000  # 100 kB
NO_OBJECT = ["null", "1", SECRET, f'"{SECRET}"', f'["{SECRET}"]', f'{{"name": "{SECRET}']
UNSTORABLE = [
    rf'"{SECRET}\u0000"',
    rf'"{SECRET}\ud800"',
    rf'"\udc00{SECRET}"',
    rf'["{SECRET}", NaN]',
    rf'["{SECRET}", -Infinity]',
]
UNPARSABLE = [b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b'"\xff"']


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


def send(client: Client, method: str, path: str, body: str | bytes) -> httpx2.Response:
    return client.request(method, path, content=body, headers={"content-type": "application/json"})


def check_refused(answer: httpx2.Response, *fields: str) -> None:
    """A 422 that says what is wrong with these fields and repeats nothing that was sent."""
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert isinstance(body["detail"], str)
    assert all(set(error) == {"field", "message"} for error in body["errors"])
    assert not fields or [error["field"] for error in body["errors"]] == [*fields]
    assert SECRET not in answer.text


def check_unreadable(answer: httpx2.Response) -> None:
    """Refused by the parser already, in one sentence."""
    assert answer.status_code in (400, 422), answer.text
    assert isinstance(answer.json()["detail"], str)


def check_not_found(answer: httpx2.Response) -> None:
    assert answer.status_code == 404, answer.text
    assert answer.json() == {"detail": "Conversation not found"}


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
    assert conversation == {**ids, **EVERY_FIELD, "project_name": "Project 7", **times}
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
    update(client, a, status=1)
    assert groups(client) == [("Project 7", [a, c]), ("其它", [b]), ("Project 8", [d])]


def test_a_change_of_its_messages_moves_a_conversation_to_the_front(client: Client) -> None:
    first, second = client.create(), client.create()
    assert page(client) == [second, first]
    client.say(first, "stored, not asked", role="assistant")
    assert page(client) == [first, second]
    assert groups(client) == [("其它", [first, second])]


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
        while rest := page(client, limit=2, before=found[-1], **query):
            assert len(rest) <= 2
            found += rest
        assert found == wanted
    assert page(client, project_id=0) == every[::2]
    check_not_found(client.get(CONVERSATIONS, params={"before": str(uuid4())}))


def test_a_list_is_asked_for_in_known_terms(client: Client) -> None:
    for field, values in {
        "project_id": ["-1", str(2**63), SECRET],
        "status": ["-1", "2", SECRET],
        "limit": ["0", "-1", SECRET],
    }.items():
        for value in values:
            check_refused(client.get(CONVERSATIONS, params={field: value}), field)


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
    check_not_found(client.get(f"{CONVERSATIONS}/{chat}/messages"))
    left = client.put(f"/v1/chat/messages/{message}", json={"content": "edited"})
    assert (left.status_code, left.json()) == (404, {"detail": "Message not found"})
    assert page(client) == [other]
    assert groups(client) == [("其它", [other])]


# Refused


def test_an_id_that_names_no_conversation_is_not_found(client: Client) -> None:
    gone = client.create()
    client.delete(f"{CONVERSATIONS}/{gone}")
    for chat in (gone, uuid4(), "0", "abc", "-1", 2**63, "%00", "%ED%A0%80"):
        path = f"{CONVERSATIONS}/{chat}"
        check_not_found(client.get(path))
        check_not_found(client.put(path, json={"name": "new", "project_id": 7}))
        check_not_found(client.delete(path))
    assert client.get(PROJECTS).json() == []


def test_values_of_the_wrong_kind_are_refused(client: Client) -> None:
    before = get(client, client.create(**EVERY_FIELD))
    text: list[Any] = [1, True, [SECRET], {"text": SECRET}]
    wrong: dict[str, list[Any]] = {
        "name": [*text, SECRET * 12],
        "model": [*text, SECRET * 12],
        "system_prompt": text,
        "assistance_role": text,
        "status": [2, -1, 1.0, "1", True, SECRET],
        "project_id": [-1, 2**63, 1.0, "1", True, SECRET],
    }
    for field, values in wrong.items():
        for value in values:
            body = {field: value}
            check_refused(client.post(CONVERSATIONS, json=body), field)
            check_refused(client.put(f"{CONVERSATIONS}/{before['id']}", json=body), field)
    assert client.get(CONVERSATIONS).json() == [before]


def test_unknown_fields_are_refused_not_dropped(client: Client) -> None:
    before = get(client, client.create(**EVERY_FIELD))
    for field in ("id", "conversation_id", "updated_at", "title"):
        body = {"name": "new", field: SECRET}
        check_refused(client.post(CONVERSATIONS, json=body), field)
        check_refused(client.put(f"{CONVERSATIONS}/{before['id']}", json=body), field)
    assert client.get(CONVERSATIONS).json() == [before]


def test_a_body_that_cannot_be_kept_as_sent_is_refused(client: Client) -> None:
    before = get(client, client.create(**EVERY_FIELD))
    bodies = NO_OBJECT + [f'{{"name": {value}}}' for value in UNSTORABLE]
    for method, path in (("POST", CONVERSATIONS), ("PUT", f"{CONVERSATIONS}/{before['id']}")):
        for body in bodies:
            check_refused(send(client, method, path, body))
        for value in UNPARSABLE:
            check_unreadable(send(client, method, path, b'{"name": %b}' % value))
    assert client.get(CONVERSATIONS).json() == [before]
