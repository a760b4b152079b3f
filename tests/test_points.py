"""Poe's prices are kept, and given to the turn they are for, or to none."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session

import history
import points
from db import Database
from main import background, create_app
from models import Conversation, Message
from points import Turn
from providers import Providers
from settings import Settings
from tests.conftest import Client, database_file, make_settings, serve, stream
from tests.upstream import Upstream

KEY = "poe-the-services-own"
# When turns are said to have been: long enough ago, and not too long.
NOON = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)


@pytest.fixture
def settings(tmp_path: Path, upstream: Upstream) -> Settings:
    return make_settings(tmp_path, upstream, poe_api_key=KEY, default_provider="poe")


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with serve(settings) as client:
        yield client


def row(seconds: float = 0, bot: str = "Hello", **more: Any) -> dict[str, Any]:
    """What Poe tells of a call so many seconds after noon."""
    created = int((NOON + timedelta(seconds=seconds)).timestamp() * 1_000_000)
    told = {"query_id": f"q{seconds}{bot}", "bot_name": bot, "creation_time": created}
    return {**told, "usage_type": "API", "cost_points": 56, **more}


def turn(client: Client, settings: Settings, start: float = 0, end: float = 10) -> int:
    """A turn that began and ended so many seconds after noon; the id of its reply."""
    answer = client.say(client.create(), "hi", model="hello").json()
    message_id = int(answer["assistant_message_id"])
    set_time(settings, message_id, start, end)
    return message_id


def set_time(settings: Settings, message_id: int, start: float, end: float) -> None:
    times = [
        (NOON + timedelta(seconds=at)).isoformat(timespec="microseconds") for at in (start, end)
    ]
    with database_file(settings) as file:
        file.execute(
            "UPDATE message SET created_at = ?, updated_at = ? WHERE id = ?",
            [*(time.replace("+00:00", "Z") for time in times), message_id],
        )


def reconcile(client: Client) -> tuple[int, int, int]:
    answer = client.post("/v1/usage/reconcile")
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["added"], told["matched"], told["skipped"]


def priced(client: Client) -> tuple[int, int | None, int]:
    """How many turns have a price, their points, and the points that are nobody's."""
    told = client.get("/v1/usage").json()
    return told["total"]["priced_turns"], told["total"]["points"], told["unmatched_points"]


def test_a_price_is_given_to_the_turn_it_is_for(
    client: Client, settings: Settings, upstream: Upstream
) -> None:
    message_id = turn(client, settings)
    upstream.points = [row(3, cost_usd="0.0017")]
    assert reconcile(client) == (1, 1, 0)
    assert priced(client) == (1, 56, 0)
    chats = client.get("/v1/chat/conversations").json()
    (reply,) = [m for m in client.history(chats[0]["id"]) if m["id"] == message_id]
    assert (reply["points"], reply["cost"]) == (56, 0.0017)
    assert client.get("/v1/usage").json()["total"]["cost_usd"] == 0.0017
    assert reconcile(client) == (0, 0, 0)
    assert priced(client) == (1, 56, 0)


@pytest.mark.parametrize(
    "told",
    [
        [row(3), row(4)],
        [row(3, "Other")],
        [row(3, usage_type="Chat")],
        [row(3, usage_type="Canvas App")],
        [row(3, usage_type=None)],
        [row(-5.01)],
        [row(15.01)],
    ],
)
def test_what_does_not_fit_one_turn_alone_is_told_as_unmatched(
    client: Client, settings: Settings, upstream: Upstream, told: list[dict[str, Any]]
) -> None:
    turn(client, settings)
    upstream.points = told
    assert reconcile(client) == (len(told), 0, 0)
    assert priced(client) == (0, None, 56 * len(told))


@pytest.mark.parametrize("seconds", [-5, 0, 10, 15])
def test_a_turns_time_has_some_slack(
    client: Client, settings: Settings, upstream: Upstream, seconds: float
) -> None:
    turn(client, settings)
    upstream.points = [row(seconds, "HELLO")]
    assert reconcile(client) == (1, 1, 0)


def test_a_row_that_fits_two_turns_is_given_to_neither(
    client: Client, settings: Settings, upstream: Upstream
) -> None:
    turn(client, settings, 0, 10)
    turn(client, settings, 8, 20)
    upstream.points = [row(9)]
    assert reconcile(client) == (1, 0, 0)
    upstream.points = [row(19), row(9)]
    assert reconcile(client) == (1, 0, 0)
    assert priced(client) == (0, None, 112)


def test_a_deletion_does_not_make_certain_what_was_doubtful(
    client: Client, settings: Settings, upstream: Upstream
) -> None:
    message_id = turn(client, settings, 0, 10)
    turn(client, settings, 8, 20)
    upstream.points = [row(9)]
    assert reconcile(client) == (1, 0, 0)
    client.post("/v1/chat/messages/delete", json={"message_ids": [message_id]}).raise_for_status()
    assert reconcile(client) == (0, 0, 0)
    assert priced(client) == (0, None, 56)


def test_the_price_of_a_deleted_turn_is_given_to_no_other(
    client: Client, settings: Settings, upstream: Upstream
) -> None:
    message_id = turn(client, settings)
    upstream.points = [row(3)]
    assert reconcile(client) == (1, 1, 0)
    client.post("/v1/chat/messages/delete", json={"message_ids": [message_id]}).raise_for_status()
    turn(client, settings)
    assert reconcile(client) == (0, 0, 0)
    assert priced(client) == (0, None, 0)


def test_a_turn_has_one_price(client: Client, settings: Settings, upstream: Upstream) -> None:
    message_id = turn(client, settings)
    upstream.points = [row(3)]
    assert reconcile(client) == (1, 1, 0)
    set_time(settings, message_id, 100, 110)
    upstream.points = [row(103, cost_points=7), row(3)]
    assert reconcile(client) == (1, 0, 0)
    assert priced(client) == (1, 56, 7)


def test_an_edit_later_does_not_make_a_turn_longer(
    client: Client, settings: Settings, upstream: Upstream
) -> None:
    turn(client, settings, 0, 40_000)
    turn(client, settings, 7200, 7210)
    upstream.points = [row(7205), row(5)]
    assert reconcile(client) == (2, 2, 0)


def test_a_reply_has_its_price_once_it_has_ended(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="gate")
    with stream(client, chat) as events:
        events.next()
        now = int(datetime.now(UTC).timestamp() * 1_000_000)
        upstream.points = [row(0, "gate", creation_time=now)]
        assert reconcile(client) == (1, 0, 0)
        upstream.open_gate()
        events.rest()
    assert reconcile(client) == (0, 1, 0)
    assert client.history(chat)[-1]["points"] == 56


def test_a_document_has_its_price_too(client: Client, upstream: Upstream) -> None:
    chat = client.create(model="echo")
    client.say(chat, "a boat")
    body = {"conversation_id": chat, "category_id": 1, "model": "poe/hello"}
    client.post("/v1/plan/documents/generate", json=body).raise_for_status()
    now = int(datetime.now(UTC).timestamp() * 1_000_000)
    upstream.points = [row(0, creation_time=now)]
    assert reconcile(client) == (1, 1, 0)
    assert priced(client) == (1, 56, 0)


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_price_that_was_imported_is_not_counted_twice(
    client: Client, settings: Settings, upstream: Upstream, tmp_path: Path, with_rows: bool
) -> None:
    turn(client, settings)
    upstream.points = [row(3)]
    reconcile(client)
    export = client.get("/v1/export").json()
    if not with_rows:
        export["points"] = []
    elsewhere = settings.model_copy(update={"database_path": tmp_path / "other.db"})
    with serve(elsewhere) as other:
        other.post("/v1/import", json=export).raise_for_status()
        assert priced(other) == (1, 56, 0)
        assert reconcile(other) == ((0, 0, 0) if with_rows else (1, 1, 0))
        assert priced(other) == (1, 56, 0)


def asked(upstream: Upstream) -> list[str]:
    return [call.path for call in upstream.calls if "/usage/" in call.path]


def test_every_page_is_read_once(client: Client, upstream: Upstream) -> None:
    upstream.points = [row(-second) for second in range(250)]
    assert reconcile(client) == (250, 0, 0)
    pages = [
        "?limit=100",
        "?limit=100&starting_after=q-99Hello",
        "?limit=100&starting_after=q-199Hello",
    ]
    assert asked(upstream) == [f"/usage/points_history{page}" for page in pages]
    upstream.points = [row(1), *upstream.points]
    assert reconcile(client) == (1, 0, 0)
    assert len(asked(upstream)) == 4


def test_a_row_that_comes_twice_is_kept_once(client: Client, upstream: Upstream) -> None:
    upstream.points = [row(9), row(9), *(row(-second) for second in range(150))]
    assert reconcile(client) == (151, 0, 0)
    assert priced(client) == (0, None, 56 * 151)


def test_a_page_that_fails_leaves_no_gap(client: Client, upstream: Upstream) -> None:
    upstream.points = [row(-second) for second in range(250)]
    upstream.statuses = [200, 200, 500]
    assert client.post("/v1/usage/reconcile").status_code == 502
    assert priced(client) == (0, None, 0)
    assert reconcile(client) == (250, 0, 0)


def test_pages_that_lead_in_a_circle_end(client: Client, upstream: Upstream) -> None:
    upstream.points = {"has_more": True, "data": [row(1), row(2)]}
    assert reconcile(client) == (2, 0, 0)
    assert len(asked(upstream)) == 2


@pytest.mark.parametrize("unit", [1_000_000, 1000, 1])
def test_a_time_may_be_in_any_unit(
    client: Client, settings: Settings, upstream: Upstream, unit: int
) -> None:
    turn(client, settings)
    upstream.points = [row(0, creation_time=int(NOON.timestamp()) * unit)]
    assert reconcile(client) == (1, 1, 0)


@pytest.mark.parametrize(
    ("odd", "kept"),
    [
        ({"cost_points": "56"}, True),
        ({"cost_points": 55.9}, True),
        ({"creation_time": str(int(NOON.timestamp()))}, True),
        ({"cost_usd": "a little"}, True),
        ({"cost_usd": None, "chat_name": "x", "cost_breakdown_in_points": {"Input": "9"}}, True),
        ({"cost_points": None}, False),
        ({"cost_points": True}, False),
        ({"cost_points": 10**30}, False),
        ({"creation_time": None}, False),
        ({"creation_time": 1e300}, False),
        ({"creation_time": -1e15}, False),
        ({"query_id": 7}, False),
        ({"query_id": None}, False),
        ({"bot_name": ["Hello"]}, False),
        ({"query_id": ""}, False),
    ],
)
def test_a_row_is_read_as_far_as_it_can_be(
    client: Client, settings: Settings, upstream: Upstream, odd: dict[str, Any], kept: bool
) -> None:
    turn(client, settings)
    upstream.points = [None, 1, "x", {}, row(0, **odd)]
    assert reconcile(client) == ((1, 1, 4) if kept else (0, 0, 5))
    assert priced(client) == ((1, 56, 0) if kept else (0, None, 0))


ODD: list[Any] = [None, 7, "x", {}, {"data": None}, {"data": {}, "current_point_balance": None}]


@pytest.mark.parametrize("body", [*ODD, "<html>", {"current_point_balance": [5]}])
def test_an_answer_that_is_none_is_told(client: Client, upstream: Upstream, body: Any) -> None:
    upstream.points = upstream.balance = body
    for answer in (client.get("/v1/usage/balance"), client.post("/v1/usage/reconcile")):
        assert answer.status_code == 502
        assert answer.json()["detail"].startswith("Poe")


@pytest.mark.parametrize(("told", "shown"), [(1500, 1500), (0, 0), ("12", 12), (12.6, 13)])
def test_the_balance_is_what_poe_says(
    client: Client, upstream: Upstream, told: Any, shown: int
) -> None:
    upstream.balance = {"current_point_balance": told, "more": "x"}
    answer = client.get("/v1/usage/balance")
    assert answer.json() == {"provider": "poe", "current_point_balance": shown}
    assert asked(upstream) == ["/usage/current_balance"]
    assert upstream.calls[-1].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("status", "shown"), [(401, 401), (402, 402), (429, 429), (500, 502)])
def test_poes_refusal_is_passed_on_in_a_sentence(
    client: Client, upstream: Upstream, status: int, shown: int
) -> None:
    for method, path in (("GET", "balance"), ("POST", "reconcile")):
        upstream.statuses = [status]
        answer = client.request(method, f"/v1/usage/{path}")
        assert answer.status_code == shown
        assert answer.json()["detail"].startswith("No: ")
        assert KEY not in answer.text


def test_the_key_is_the_services_own_else_the_callers(
    tmp_path: Path, settings: Settings, upstream: Upstream
) -> None:
    with serve(settings.model_copy(update={"poe_api_key": None})) as client:
        refused = client.get("/v1/usage/balance")
        assert refused.status_code == 401
        assert "POE_API_KEY" in refused.json()["detail"]
        assert client.post("/v1/usage/reconcile").status_code == 401
        mine = {"Authorization": "Bearer poe-mine"}
        assert client.get("/v1/usage/balance", headers=mine).status_code == 200
        assert upstream.calls[-1].headers["authorization"] == "Bearer poe-mine"


def test_without_poe_the_sums_are_there_all_the_same(tmp_path: Path) -> None:
    nowhere = make_settings(tmp_path, poe_api_key=KEY, default_provider="poe")
    with serve(nowhere) as client:
        client.say(client.create(model="echo"), "hi")
        assert client.post("/v1/usage/reconcile").status_code == 502
        assert client.get("/v1/usage").json()["total"]["turns"] == 1


def test_only_with_a_key_of_its_own_the_service_asks_by_itself(settings: Settings) -> None:
    def count(**changes: Any) -> int:
        work = list(background(create_app(settings.model_copy(update=changes))))
        for one in work:
            one.close()
        return len(work)

    assert (count(), count(poe_api_key=None)) == (1, 0)


# The watch: what the service does by itself.


def begin(session: Session) -> None:
    """A reply of Poe's that has just ended."""
    chat = Conversation()
    session.add(chat)
    session.flush()
    history.append(session, chat.id, None, role="assistant", provider="poe", model="hello")


async def watched(settings: Settings, upstream: Upstream) -> None:
    database, providers = Database(settings.database_path), Providers(settings)
    database.open()
    watching = asyncio.create_task(points.watch(database, providers, pause=0))
    try:
        async with asyncio.timeout(20):
            for _ in range(20):
                await database.read(lambda session: session.get(Message, 1))
            assert asked(upstream) == []
            await database.write(begin)
            now = int(datetime.now(UTC).timestamp() * 1_000_000)
            upstream.points = [row(0, creation_time=now)]
            upstream.statuses = [500, 401, 503]
            while (await database.read(lambda s: s.get_one(Message, 1))).points != 56:
                assert not watching.done()
            upstream.statuses = [500, 200]
            while upstream.statuses:
                await database.read(lambda session: session.get(Message, 1))
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await providers.close()
        await database.close()


def test_turns_get_their_prices_by_themselves_and_without_noise(
    settings: Settings, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="points")
    asyncio.run(watched(settings, upstream))
    assert upstream.statuses == []
    said = [record for record in caplog.records if record.name == "points"]
    # Once when it fails, and again only after it has worked.
    sentences = [record.getMessage().partition(":")[0] for record in said]
    assert sentences == ["Poe's points are not read yet"] * 2
    assert KEY not in caplog.text


# The property: a price is matched exactly where nothing else fits either of the two.


@dataclass(frozen=True)
class Call:
    id: int
    bot_name: str
    created_at: str


moments = st.integers(0, 20).map("{:02}".format)
bots = st.sampled_from(["a", "A", "b"])


@given(
    st.lists(st.tuples(bots, moments, moments), max_size=8),
    st.lists(st.tuples(bots, moments), max_size=8),
)
def test_nothing_is_matched_that_could_be_something_else(
    spans: list[tuple[str, str, str]], told: list[tuple[str, str]]
) -> None:
    turns = [Turn(Message, number, *span) for number, span in enumerate(spans)]
    calls = [Call(number, *one) for number, one in enumerate(told)]

    def fit(turn: Turn, call: Call) -> bool:
        same = turn.bot.lower() == call.bot_name.lower()
        return same and turn.start <= call.created_at <= turn.end

    def alone(turn: Turn, call: Call) -> bool:
        rivals = [fit(turn, other) for other in calls] + [fit(other, call) for other in turns]
        return sum(rivals) == 2  # the two of them

    found = [(turn.id, call.id, alone) for turn, call, alone in points.fits(turns, calls)]
    assert sorted(found) == sorted(
        (turn.id, call.id, alone(turn, call)) for turn in turns for call in calls if fit(turn, call)
    )
