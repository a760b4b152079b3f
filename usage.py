"""What the turns have used, counted and summed by SQLite from the stored replies themselves.

A turn is a reply or a document that this service asked a provider for. Messages that came from
other programs are none, and what is deleted is not counted any more.
"""

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

from sqlalchemy import (
    BLOB,
    ColumnElement,
    Integer,
    and_,
    case,
    cast,
    desc,
    func,
    inspect,
    literal,
    null,
    select,
    union_all,
)
from sqlmodel import Session

import context
from models import (
    NO_PROJECT,
    Conversation,
    Document,
    Draft,
    GroupBy,
    Message,
    PoePoints,
    Project,
    UsageGroup,
    UsageReport,
    UsageSums,
)

# What is above is no count of tokens and no price, and sums of it would overflow.
MOST = 10**12

message, draft, document, conversation, project, poe_points = (
    inspect(table).local_table.c
    for table in (Message, Draft, Document, Conversation, Project, PoePoints)
)
IS_TURN = and_(message.role == "assistant", message.provider.is_not(None), message.source.is_(None))


def report(
    session: Session, group_by: GroupBy, since: str | None, until: str | None
) -> UsageReport:
    """The sums of each group and of all, from `since` on and before `until`."""
    keys = KEYS[group_by]
    query = select(*keys, *SUMS).select_from(TURNS).group_by(*keys)
    query = query.where(*_between(TURN.c.created_at, since, until))
    order = [keys[0].desc()] if group_by == "day" else [*DEAREST_FIRST, *keys]
    groups = [UsageGroup(**row._mapping) for row in session.execute(query.order_by(*order))]
    unmatched = select(func.coalesce(func.sum(poe_points.cost_points), 0)).where(
        poe_points.matched.is_not(True), *_between(poe_points.created_at, since, until)
    )
    return UsageReport(
        group_by=group_by,
        since=since,
        until=until,
        groups=groups,
        total=_total(groups),
        unmatched_points=session.execute(unmatched).scalar_one(),
    )


def _between(
    time: ColumnElement[str], since: str | None, until: str | None
) -> list[ColumnElement[bool]]:
    bounds = [time >= since] if since is not None else []
    return [*bounds, time < until] if until is not None else bounds


def _total(groups: Sequence[UsageSums]) -> UsageSums:
    """The sums of the sums; what no group knows stays unknown."""
    total = dict[str, Any]()
    for name, field in UsageSums.model_fields.items():
        known = [figure for group in groups if (figure := getattr(group, name)) is not None]
        total[name] = round(sum(known), 9) if known else field.default
    return UsageSums(**total)


def _measures(usage: Any, *texts: Any) -> list[ColumnElement[Any]]:
    """What a reply's usage says, whatever it may be, and the text of one that says no tokens."""
    completion = func.json_extract(usage, "$.completion_tokens")
    text = reduce(operator.add, (func.coalesce(text, "") for text in texts))
    return [
        func.json_extract(usage, "$.prompt_tokens").label("prompt"),
        completion.label("completion"),
        func.json_extract(usage, "$.completion_tokens_details.reasoning_tokens").label("reasoning"),
        case((completion.between(0, MOST), null()), else_=text).label("text"),
    ]


MESSAGES = select(
    message.created_at,
    message.status,
    message.provider,
    message.model,
    message.conversation_id,
    null().label("project_id"),
    message.cost,
    message.points,
    *_measures(message.usage, message.content, message.reasoning),
).where(IS_TURN)
# The text of a draft that became a document is kept there.
DRAFTS = select(
    draft.created_time,
    draft.status,
    draft.provider,
    draft.model,
    draft.conversation_id,
    draft.project_id,
    draft.cost,
    draft.points,
    *_measures(draft.usage, draft.content, draft.reasoning, document.content),
).outerjoin_from(Draft, Document, document.id == draft.document_id)
# An import brings documents without the drafts that they were.
DOCUMENTS = select(
    document.created_time,
    literal("complete"),
    null(),
    document.model,
    document.conversation_id,
    document.project_id,
    null(),
    null(),
    *_measures(document.usage, document.content),
).where(
    document.model.is_not(None),
    document.id.not_in(select(draft.document_id).where(draft.document_id.is_not(None))),
)
TURN = union_all(MESSAGES, DRAFTS, DOCUMENTS).subquery("turn")
TURNS = TURN.outerjoin(Conversation, conversation.id == TURN.c.conversation_id).outerjoin(
    Project, project.id == func.coalesce(TURN.c.project_id, conversation.project_id)
)

DAY = func.date(TURN.c.created_at, "localtime")
KEYS: dict[GroupBy, list[ColumnElement[Any]]] = {
    "day": [func.coalesce(DAY, func.substr(TURN.c.created_at, 1, 10)).label("day")],
    "model": [TURN.c.provider, TURN.c.model],
    "provider": [TURN.c.provider],
    "conversation": [TURN.c.conversation_id, conversation.name.label("conversation_name")],
    "project": [
        func.coalesce(project.id, 0).label("project_id"),
        func.coalesce(project.name, NO_PROJECT).label("project_name"),
    ],
}


def _figure(column: ColumnElement[Any], least: int = 0) -> ColumnElement[int]:
    """The column's whole number; NULL where it is none, or absurd (SQLite sorts texts above)."""
    return cast(case((column.between(least, MOST), column)), Integer)


PROMPT = func.coalesce(_figure(TURN.c.prompt), 0)
REASONING = func.coalesce(_figure(TURN.c.reasoning), 0)
GUESSED = context.guess(func.length(TURN.c.text), func.length(cast(TURN.c.text, BLOB)))
COMPLETION = func.coalesce(_figure(TURN.c.completion), GUESSED)
COST = case((TURN.c.cost.between(-MOST, MOST), TURN.c.cost))
POINTS = _figure(TURN.c.points, -MOST)


def _count(*statuses: str) -> ColumnElement[int]:
    return func.count().filter(TURN.c.status.in_(statuses))


SUMS = [
    column.label(name)
    for name, column in {
        "turns": func.count(),
        "complete": _count("complete"),
        "stopped": _count("stopped"),
        "failed": _count("error", "interrupted"),
        "running": _count("streaming"),
        "prompt_tokens": func.sum(PROMPT),
        "completion_tokens": func.sum(COMPLETION),
        "reasoning_tokens": func.sum(REASONING),
        "total_tokens": func.sum(PROMPT + COMPLETION),
        "estimated_turns": func.count().filter(TURN.c.text != ""),
        "estimated_tokens": func.sum(func.coalesce(GUESSED, 0)),
        "priced_turns": func.count(func.coalesce(COST, POINTS)),
        "cost_usd": func.round(func.sum(COST), 9),
        "points": func.sum(POINTS),
    }.items()
]
DEAREST_FIRST: list[ColumnElement[Any]] = [desc("cost_usd"), desc("points"), desc("total_tokens")]
