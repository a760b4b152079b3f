"""Poe's points: what each call has taken, as Poe tells it, and which turn it was for.

Poe's ids are not ours, and it forgets after 30 days. So every row is kept, and its price is a
turn's where bot and time fit this turn alone, and no other row does. What fits twice is left
unmatched: a price is never guessed.
"""

import asyncio
import json
import logging
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

from pydantic import SecretStr
from sqlalchemy import Update, and_, bindparam, func, insert, inspect, select, true, update
from sqlmodel import Session

import poe
import usage
from db import Database
from errors import ServiceError, UpstreamError
from fields import iso, number, repaired
from models import Draft, Message, PoePoints, Reconciled
from providers import Providers

log = logging.getLogger(__name__)

kept = inspect(PoePoints).local_table

Row = dict[str, Any]
Table = type[Message] | type[Draft]

ROWS_A_PAGE, MOST_PAGES = 100, 1000
# How far back turns are matched: Poe tells of 30 days.
KEPT = timedelta(days=31)
# A row is as old as its turn, as far as two clocks agree.
SLACK = timedelta(seconds=5)
# An edit moves the time of a reply's last change, but not its end.
LONGEST_TURN = timedelta(hours=1)
# How often is looked for turns that have ended, and how late Poe may be to tell of them.
PAUSE_SECONDS = 180.0
LATE = timedelta(minutes=2)

SOURCES: tuple[tuple[Table, Any, Any, Any], ...] = (
    (Message, usage.message, usage.message.created_at, usage.IS_TURN),
    (Draft, usage.draft, usage.draft.created_time, true()),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn on Poe, and the stretch of time in which its row must lie."""

    table: Table
    id: int
    bot: str
    start: str
    end: str
    running: bool = False
    points: int | None = None


class Call(Protocol):
    """What is read of a row that is kept: these columns of it."""

    @property
    def id(self) -> int: ...
    @property
    def bot_name(self) -> str: ...
    @property
    def created_at(self) -> str: ...


C = TypeVar("C", bound=Call)


async def balance(providers: Providers, bearer: SecretStr | None) -> int:
    """The points that are left."""
    told = _object(await providers.poe_usage("current_balance", bearer))
    points = number(told.get("current_point_balance"))
    if points is None:
        raise UpstreamError("Poe did not tell the balance")
    return round(points)


async def reconcile(db: Database, providers: Providers, bearer: SecretStr | None) -> Reconciled:
    """Keep what Poe tells that is new, and match what can be matched."""
    rows, skipped = await _ask(providers, bearer, await db.read(_known))
    added, matched = await db.write(_keep, rows)
    return Reconciled(added=added, matched=matched, skipped=skipped)


async def watch(db: Database, providers: Providers, pause: float = PAUSE_SECONDS) -> None:
    """Reconcile a while after turns have ended, with the service's own key; until cancelled."""
    since, failed = datetime.now(UTC) - KEPT, False
    while True:
        await asyncio.sleep(pause)
        moment = datetime.now(UTC)
        try:
            if await db.read(_any_since, since):
                await reconcile(db, providers, None)
        except ServiceError as error:
            if not failed:
                log.info("Poe's points are not read yet: %s", error.detail)
            failed = True
        else:
            since, failed = moment - LATE, False


def fits(turns: Iterable[Turn], calls: Iterable[C]) -> Iterator[tuple[Turn, C, bool]]:
    """The turns and calls that fit each other, and whether nothing else fits either of the two."""
    of_bot = defaultdict[str, list[C]](list)
    for call in sorted(calls, key=_time):
        of_bot[call.bot_name.casefold()].append(call)
    pairs = list[tuple[Turn, C]]()
    for turn in turns:
        there = of_bot[turn.bot.casefold()]
        first = bisect_left(there, turn.start, key=_time)
        last = bisect_right(there, turn.end, key=_time)
        pairs += ((turn, call) for call in there[first:last])
    calls_of = Counter(turn for turn, _ in pairs)
    turns_of = Counter(call.id for _, call in pairs)
    return ((turn, call, calls_of[turn] == turns_of[call.id] == 1) for turn, call in pairs)


def _time(call: Call) -> str:
    return call.created_at


async def _ask(
    providers: Providers, bearer: SecretStr | None, known: set[str]
) -> tuple[list[Row], int]:
    """The rows that are not known, and how many could not be understood.

    They come newest first: a page with a known one is the last that is asked for.
    """
    told, skipped = list[Row](), 0
    page: dict[str, Any] = {"limit": ROWS_A_PAGE}
    for _ in range(MOST_PAGES):
        path = f"points_history?{urlencode(page)}"
        answer = _object(await providers.poe_usage(path, bearer))
        items = answer.get("data")
        if not isinstance(items, list):
            raise UpstreamError("Poe did not tell its points")
        rows = [row for item in items if (row := _row(item))]
        at_known = not rows or any(row["query_id"] in known for row in rows)
        fresh = {row["query_id"]: row for row in rows if row["query_id"] not in known}
        known |= fresh.keys()
        told += fresh.values()
        skipped += len(items) - len(rows)
        if at_known or not answer.get("has_more"):
            break
        page["starting_after"] = rows[-1]["query_id"]
    return told, skipped


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = repaired(json.loads(body))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UpstreamError("Poe's answer cannot be read")
    return value


def _row(item: Any) -> Row | None:
    """A row of Poe's as it is kept; None where it lacks what makes it one."""
    if not isinstance(item, dict):
        return None
    created, points = number(item.get("creation_time")), number(item.get("cost_points"))
    query_id, bot, kind = (item.get(name) for name in ("query_id", "bot_name", "usage_type"))
    moment = poe.moment(created) if created is not None else None
    if not (query_id and isinstance(query_id, str) and isinstance(bot, str) and moment):
        return None
    if points is None or abs(points) > usage.MOST:
        return None
    return {
        "query_id": query_id,
        "bot_name": bot,
        "usage_type": kind if isinstance(kind, str) else "",
        "cost_points": round(points),
        "cost_usd": number(item.get("cost_usd")),
        "created_at": moment,
    }


def _keep(session: Session, rows: list[Row]) -> tuple[int, int]:
    """How many rows were new, and how many turns have their price now."""
    known = _known(session)
    fresh = [row for row in rows if row["query_id"] not in known]
    if fresh:
        session.execute(insert(PoePoints), fresh)
    return len(fresh), _match(session)


def _match(session: Session) -> int:
    """Judge the calls that fit a turn now; how many turns got a price."""
    since = datetime.now(UTC) - KEPT
    of_api = and_(func.lower(kept.c.usage_type) == "api", kept.c.created_at >= iso(since))
    calls = session.execute(select(kept).where(of_api))
    judged, prices = dict[int, bool](), defaultdict[Table, list[Row]](list)
    for turn, call, alone in fits(_turns(session, since), calls):
        # What was doubtful once stays so, also when what made it so is deleted.
        if call.matched is not None or (alone and turn.running):
            continue
        judged[call.id] = alone and turn.points in (None, call.cost_points)
        if judged[call.id]:
            price = {"key": turn.id, "price": call.cost_points, "usd": call.cost_usd}
            prices[turn.table].append(price)
    if judged:
        verdicts = [{"key": key, "verdict": verdict} for key, verdict in judged.items()]
        session.execute(_by_key(kept).values(matched=bindparam("verdict")), verdicts)
    for table, priced in prices.items():
        turns = inspect(table).local_table
        values: Row = {
            "points": bindparam("price"),
            "cost": func.coalesce(bindparam("usd"), turns.c.cost),
        }
        session.execute(_by_key(turns).values(values), priced)
    return sum(map(len, prices.values()))


def _by_key(table: Any) -> Update:
    return update(table).where(table.c.id == bindparam("key"))


def _known(session: Session) -> set[str]:
    return set(session.scalars(select(kept.c.query_id)))


def _any_since(session: Session, since: datetime) -> bool:
    """Whether a turn on Poe has gone on since then."""
    return any(turn.end >= iso(since) for turn in _turns(session, since - LONGEST_TURN))


def _turns(session: Session, since: datetime) -> Iterator[Turn]:
    """The turns on Poe that began since then."""
    now = datetime.now(UTC)
    for table, t, created, is_turn in SOURCES:
        on_poe = and_(is_turn, t.provider == "poe", created.between(iso(since), iso(now)))
        query = select(t.id, t.model, created, t.updated_at, t.status, t.points).where(on_poe)
        for id_, model, begun, changed, status, price in session.execute(query):
            start, running = datetime.fromisoformat(begun), status == "streaming"
            end = now if running else min(datetime.fromisoformat(changed), start + LONGEST_TURN)
            yield Turn(table, id_, model, iso(start - SLACK), iso(end + SLACK), running, price)
