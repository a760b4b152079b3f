"""What the turns have used adds up, and what is not known is not made up."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from sqlalchemy import create_engine, delete
from sqlmodel import Session, SQLModel

import context
import index
import usage
from models import (
    Category,
    Conversation,
    Document,
    Draft,
    GroupBy,
    Message,
    Project,
    UsageGroup,
    UsageSums,
)
from reply import Outcome
from settings import Settings
from tests.conftest import Client, database_file, make_settings, serve, stream
from tests.process import environment, run
from tests.upstream import Upstream

COUNTS = ["turns", "complete", "stopped", "failed", "running"]
TOKENS = ["prompt_tokens", "completion_tokens", "reasoning_tokens", "total_tokens"]


def used(client: Client, **parameters: Any) -> dict[str, Any]:
    answer = client.get("/v1/usage", params=parameters)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def total(client: Client, *names: str) -> list[Any]:
    sums = used(client)["total"]
    return [sums[name] for name in names]


def tokens(client: Client) -> list[Any]:
    return total(client, *TOKENS)


def turn(client: Client, model: str = "hello", **body: Any) -> str:
    """One turn in a conversation of its own."""
    chat = client.create(**body)
    client.say(chat, "hi", model=model)
    return chat


def at(client: Client, chat: str, moment: str) -> None:
    """Let a conversation's reply have been at another time."""
    reply = client.history(chat)[-1]
    edit = {"content": reply["content"], "created_at": moment}
    client.put(f"/v1/chat/messages/{reply['id']}", json=edit).raise_for_status()


def test_nothing_has_been_used_of_a_new_database(client: Client) -> None:
    told = used(client)
    assert (told["group_by"], told["from"], told["to"]) == ("day", None, None)
    assert (told["groups"], told["unmatched_points"]) == ([], 0)
    unknown = {name for name, value in told["total"].items() if value is None}
    assert unknown == {"cost_usd", "points"}
    assert sum(value for value in told["total"].values() if value) == 0


def test_a_turn_is_counted_with_what_the_provider_told(client: Client) -> None:
    turn(client)
    details = '"completion_tokens_details":{"reasoning_tokens":4}'
    turn(client, f'used:{{"prompt_tokens":2,"completion_tokens":9,{details}}}')
    assert total(client, *COUNTS) == [2, 2, 0, 0, 0]
    assert tokens(client) == [5, 14, 4, 19]
    assert total(client, "estimated_turns", "estimated_tokens") == [0, 0]


def test_only_what_was_asked_of_a_provider_is_a_turn(settings: Settings) -> None:
    with serve(settings) as client:
        chat = turn(client, "echo")
        for role in ("assistant", "system"):
            body = {"role": role, "content": "said elsewhere", "model": "hello"}
            client.post(f"/v1/chat/conversations/{chat}/messages", json=body).raise_for_status()
        assert total(client, *COUNTS) == [1, 1, 0, 0, 0]
        with database_file(settings) as file:
            file.execute("UPDATE message SET source = 'chatgpt', external_id = id")
        assert total(client, *COUNTS) == [0, 0, 0, 0, 0]


def test_how_turns_ended_is_told_and_tokens_of_cut_off_texts_are_guessed(
    client: Client, upstream: Upstream
) -> None:
    turn(client, "refuse:402")
    assert total(client, "failed", *TOKENS, "estimated_turns") == [1, 0, 0, 0, 0, 0]
    turn(client, "cut:in-text")  # "half a "
    assert total(client, "failed", *TOKENS) == [2, 0, 2, 0, 2]
    assert total(client, "estimated_turns", "estimated_tokens") == [1, 2]
    with stream(client, client.create(), model="gate") as events:
        session_id = events.next()["session_id"]
        assert total(client, *COUNTS) == [3, 0, 0, 2, 1]
        while events.text != "w0 w1 w2 ":
            events.next()
        client.post("/v1/chat/stop-stream", json={"session_id": session_id}).raise_for_status()
    assert total(client, *COUNTS) == [3, 0, 1, 2, 0]
    assert total(client, *TOKENS) == [0, 5, 0, 5]
    assert total(client, "estimated_turns", "estimated_tokens") == [2, 5]


def test_documents_are_turns_and_count_once(client: Client) -> None:
    chat = turn(client, project_id=3)
    body = {"conversation_id": chat, "category_id": 1, "model": "hello"}
    client.post("/v1/plan/documents/generate", json=body).raise_for_status()
    document = client.post("/v1/plan/documents/generate", json=body).json()
    client.put(f"/v1/plan/documents/{document['id']}", json={"content": "x"}).raise_for_status()
    assert total(client, "turns", *TOKENS) == [3, 9, 15, 0, 24]
    client.post("/v1/plan/documents/generate", json={**body, "model": "short:length"})
    client.post("/v1/plan/documents/generate", json={**body, "model": "no-done"})
    assert total(client, *COUNTS) == [5, 4, 0, 1, 0]
    assert total(client, *TOKENS) == [12, 21, 0, 33]
    assert total(client, "estimated_turns", "estimated_tokens") == [1, 1]
    (group,) = used(client, group_by="project")["groups"]
    assert (group["project_id"], group["turns"]) == (3, 5)
    client.delete(f"/v1/plan/documents/{document['id']}").raise_for_status()
    assert total(client, "turns") == [5]


def test_an_import_brings_the_usage_along(client: Client, tmp_path: Path) -> None:
    chat = turn(client)
    turn(client, "cut:in-text")
    body = {"conversation_id": chat, "category_id": 1, "model": "hello"}
    client.post("/v1/plan/documents/generate", json=body).raise_for_status()
    export = client.get("/v1/export").json()
    with serve(make_settings(tmp_path / "..", database_path=tmp_path / "other.db")) as other:
        other.post("/v1/import", json=export).raise_for_status()
        assert used(other) == used(client)
        other.post("/v1/import", json=export).raise_for_status()
        assert used(other) == used(client)


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ('{"prompt_tokens":"3","completion_tokens":"5"}', [0, 1, 0, 1]),
        ('{"prompt_tokens":null,"completion_tokens":[5]}', [0, 1, 0, 1]),
        ('{"prompt_tokens":-3,"completion_tokens":-5}', [0, 1, 0, 1]),
        ('{"prompt_tokens":1e30,"completion_tokens":99999999999999999999}', [0, 1, 0, 1]),
        ('{"prompt_tokens":3,"completion_tokens":{"a":1}}', [3, 1, 0, 4]),
        ('{"completion_tokens":5,"completion_tokens_details":7}', [0, 5, 0, 5]),
        ('{"completion_tokens":5.0,"completion_tokens_details":{}}', [0, 5, 0, 5]),
        ("{}", [0, 1, 0, 1]),
        ("[]", [0, 1, 0, 1]),
        ('"none"', [0, 1, 0, 1]),
    ],
)
def test_a_usage_of_odd_types_is_not_known(client: Client, told: str, known: list[int]) -> None:
    turn(client, f"used:{told}")
    assert total(client, "complete", *TOKENS) == [1, *known]
    assert total(client, "estimated_turns") == [int(known[1] == 1)]


@pytest.mark.parametrize(
    ("cost", "known"),
    [
        (0.00125, 0.00125),
        (0, 0.0),
        ("0.5", 0.5),
        (True, None),
        (None, None),
        ({"total": 1}, None),
        ("free", None),
        (float("nan"), None),
        (10**400, None),
    ],
)
def test_a_cost_is_a_number(cost: Any, known: float | None) -> None:
    assert Outcome("complete", usage={"cost": cost}).cost == known


def test_the_cost_is_what_the_provider_says(client: Client) -> None:
    chat = turn(client, 'used:{"cost":0.00125}')
    assert client.history(chat)[-1]["cost"] == 0.00125
    assert client.history(turn(client))[-1]["cost"] is None
    assert total(client, "turns", "priced_turns", "cost_usd", "points") == [2, 1, 0.00125, None]


def test_costs_are_summed_where_they_are_known(client: Client) -> None:
    for cost in (0.1, 0.2):
        turn(client, f'used:{{"cost":{cost}}}')
    turn(client)
    assert total(client, "turns", "priced_turns", "cost_usd") == [3, 2, 0.3]
    dear, cheap, unknown = used(client, group_by="model")["groups"]
    assert [group["cost_usd"] for group in (dear, cheap, unknown)] == [0.2, 0.1, None]


def test_absurd_figures_in_the_file_break_no_sum(settings: Settings) -> None:
    with serve(settings) as client:
        for _ in range(3):
            turn(client)
        with database_file(settings) as file:
            file.execute("UPDATE message SET points = 9223372036854775807, cost = 1.7e308")
        assert total(client, "turns", "priced_turns", "cost_usd", "points") == [3, 0, None, None]


@pytest.mark.parametrize(
    ("zone", "days", "start"),
    [
        (
            "EST5EDT,M3.2.0,M11.1.0",
            ["9999-12-31", "2026-06-30", "2026-01-31", "2026-01-30"],
            "2026-01-31T05:00:00.000000Z",
        ),
        # There the last moment of our years is in the next one, which no date can tell.
        (
            "CET-1CEST,M3.5.0,M10.5.0/3",
            ["9999-12-31", "2026-07-01", "2026-01-31"],
            "2026-01-30T23:00:00.000000Z",
        ),
    ],
)
def test_a_day_is_the_servers_own(
    tmp_path: Path, upstream: Upstream, zone: str, days: list[str], start: str
) -> None:
    with run(environment(tmp_path, upstream, TZ=zone), dev=False) as service:
        client = service.client
        for moment in ("01-31T04:59:59Z", "01-31T05:00:00Z", "07-01T03:59:59Z"):
            at(client, turn(client), f"2026-{moment}")
        at(client, turn(client), "9999-12-31T23:59:59Z")
        assert [group["day"] for group in used(client)["groups"]] == days
        told = used(client, **{"from": "2026-01-31", "to": "2026-02-01"})
        assert told["from"] == start
        assert [group["day"] for group in told["groups"]] == ["2026-01-31"]


def test_a_period_has_its_beginning_and_not_its_end(client: Client) -> None:
    for moment in ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-02T12:00:00Z"):
        at(client, turn(client), moment)

    def turns(**parameters: str) -> int:
        return int(used(client, **parameters)["total"]["turns"])

    assert turns(**{"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}) == 1
    assert turns(**{"from": "2026-01-02T00:00:00Z", "to": "2026-01-03T00:00:00Z"}) == 2
    assert turns(**{"from": "2026-01-02T12:00:00+00:00"}) == 1
    assert turns(to="2026-01-01T00:00:00Z") == 0
    assert turns(**{"from": "", "to": "", "group_by": ""}) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [("group_by", "week"), ("from", "yesterday"), ("to", "2026-13-01"), ("to", "1700000000")],
)
def test_what_is_no_period_or_group_is_refused(client: Client, field: str, value: str) -> None:
    answer = client.get("/v1/usage", params={field: value})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_groups_are_named(client: Client) -> None:
    chat = turn(client, name="花费", project_id=7)
    client.put("/v1/projects/7", json={"name": "船"}).raise_for_status()
    turn(client, "refuse:402")
    turn(client, "echo")

    def groups(group_by: str, *names: str) -> list[list[Any]]:
        return [[g[name] for name in names] for g in used(client, group_by=group_by)["groups"]]

    assert groups("project", "project_id", "project_name", "turns") == [
        [7, "船", 1],
        [0, "其它", 2],
    ]
    assert groups("conversation", "conversation_id", "conversation_name")[0] == [chat, "花费"]


# The property: whatever the turns are, each way to group them gives the sums of all of them.


texts = st.sampled_from(["", "a", "four letters", "明天的天气很好", "Ünïcödé 😀", "x" * 5000])
figures: st.SearchStrategy[Any] = st.sampled_from(
    [0, 1, 7, 1200, 7.9, -1, 2**70, "12", None, True, [1], {}]
)
usages = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": figures,
        "completion_tokens": figures,
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({"reasoning_tokens": figures}),
    },
)
turns = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["message", "draft", "document", "imported", "spoken"]),
        "chat": st.integers(0, 3),
        "status": st.sampled_from(["complete", "stopped", "interrupted", "error", "streaming"]),
        "provider": st.sampled_from(["poe", "openai", "echo"]),
        "model": st.sampled_from(["a", "b"]),
        "usage": usages,
        "content": texts,
        "reasoning": st.none() | texts,
        "cost": st.none() | st.integers(0, 10_000).map(lambda cents: cents / 100),
        "points": st.none() | st.integers(-5, 5000),
        "created_at": st.integers(0, 100).map(
            lambda hours: f"2026-03-{27 + hours // 24 % 4}T{hours % 24:02}:30:00.000000Z"
        ),
    }
)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Four chats: two in a project, one in another, one in none; and a category."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        index.register(connection.connection.dbapi_connection)
        SQLModel.metadata.create_all(connection)
        index.create(connection)
        with Session(connection) as session:
            session.add_all([Project(id=1, name="one"), Project(id=2, name="two")])
            session.add_all(
                Conversation(id=f"{n}", project_id=p) for n, p in enumerate([1, 1, 2, 0])
            )
            session.add(Category(id=1, name="plan"))
            session.flush()
            yield session
    engine.dispose()


def store(session: Session, drawn: dict[str, Any], number: int) -> None:
    values = {**drawn, "session_id": f"{number}", "conversation_id": f"{drawn['chat']}"}
    kind, created = values.pop("kind"), values["created_at"]
    if kind in ("draft", "document"):
        project_id = session.get_one(Conversation, values["conversation_id"]).project_id
        place: dict[str, Any] = {"project_id": project_id, "category_id": 1, "filename": "a"}
        values |= {**place, "template_hash": "", "created_time": created}
        if kind == "document":
            made = Document(**place, content=values["content"], version=number, model="m")
            session.add(made)
            session.flush()
            values |= {"content": "", "document_id": made.id}
        session.add(Draft(**values))
    else:
        if kind == "imported":
            values |= {"source": "chatgpt", "external_id": f"{number}"}
        if kind == "spoken":
            values["provider"] = None
        session.add(Message(role="assistant", **values))


def count(value: object) -> int | None:
    is_count = isinstance(value, int | float) and 0 <= value <= usage.MOST
    return int(value) if is_count else None  # type: ignore[call-overload]


def expected(drawn: dict[str, Any]) -> dict[str, Any]:
    """What one turn adds to every sum, reckoned in another way."""
    told = drawn["usage"] or {}
    said = drawn["content"] + (drawn["reasoning"] or "")
    guess = context.guess(len(said), len(said.encode()))
    prompt, completion = count(told.get("prompt_tokens")) or 0, count(told.get("completion_tokens"))
    reasoning = (told.get("completion_tokens_details") or {}).get("reasoning_tokens")
    status = "failed" if drawn["status"] in ("error", "interrupted") else drawn["status"]
    ending = {"streaming": "running"}.get(status, status)
    tokens = guess if completion is None else completion
    return {
        "turns": 1,
        **{name: int(name == ending) for name in COUNTS[1:]},
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "reasoning_tokens": count(reasoning) or 0,
        "total_tokens": prompt + tokens,
        "estimated_turns": int(completion is None and said != ""),
        "estimated_tokens": guess if completion is None else 0,
        "priced_turns": int(drawn["cost"] is not None or drawn["points"] is not None),
        "cost_usd": drawn["cost"],
        "points": drawn["points"],
    }


def added_up(sums: list[dict[str, Any]]) -> dict[str, Any]:
    added: dict[str, Any] = dict.fromkeys(UsageSums.model_fields, 0)
    added |= {"cost_usd": None, "points": None}
    for one in sums:
        for name in added:
            if one[name] is not None:
                added[name] = round((added[name] or 0) + one[name], 9)
    return added


def key(group_by: GroupBy, drawn: dict[str, Any]) -> Any:
    """The group that a turn belongs to."""
    if group_by == "day":
        return datetime.fromisoformat(drawn["created_at"]).astimezone().date().isoformat()
    return {
        "model": (drawn["provider"], drawn["model"]),
        "provider": drawn["provider"],
        "conversation": f"{drawn['chat']}",
        "project": [1, 1, 2, 0][drawn["chat"]],
    }[group_by]


def key_of(group_by: GroupBy, group: UsageGroup) -> Any:
    if group_by == "model":
        return group.provider, group.model
    name = {"conversation": "conversation_id", "project": "project_id"}.get(group_by, group_by)
    return getattr(group, name)


@effort(max_examples=150, deadline=None)
@given(drawn=st.lists(turns, max_size=25))
def test_every_grouping_adds_up_to_the_sum_of_the_turns(
    session: Session, drawn: list[dict[str, Any]]
) -> None:
    for table in (Draft, Document, Message):
        session.execute(delete(table))
    for number, one in enumerate(drawn, 1):
        store(session, one, number)
    session.flush()
    counted = [one for one in drawn if one["kind"] not in ("imported", "spoken")]
    for group_by in get_args(GroupBy):
        told = usage.report(session, group_by, None, None)
        assert told.total.model_dump() == added_up([expected(one) for one in counted])
        by_key: dict[Any, list[dict[str, Any]]] = {}
        for one in counted:
            by_key.setdefault(key(group_by, one), []).append(expected(one))
        groups = {key_of(group_by, group): group for group in told.groups}
        assert len(groups) == len(told.groups)
        assert groups.keys() == by_key.keys()
        for name, group in groups.items():
            sums = group.model_dump(include=set(UsageSums.model_fields))
            assert sums == added_up(by_key[name])
    days = [group.day for group in usage.report(session, "day", None, None).groups]
    assert days == sorted(days, key=str, reverse=True)
