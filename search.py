"""Finding messages and documents: every word must be there, the best come first.

A query is words between blanks, all of which must match; a part in double quotes is one phrase, and
any other character is text. The newest 200 messages and 200 documents that match are ranked, those
with the words most often for their length first; what is older follows them by recency, so that a
common word costs no more than a rare one.
"""

import asyncio
import heapq
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from sqlalchemy import Row, text
from sqlmodel import Session

import index
from db import Database
from errors import Invalid
from models import DocumentFound, MessageFound, SearchPage

RANKED = 200
# A text is scored by its first part; as much of it is read for every one that is ranked.
SCORED = 4000
TYPICAL_LENGTH = 500
SNIPPET = 120
BEFORE_HIT = 40
TERM = re.compile(r'"([^"]*)"|((?:[^\s"]|"(?=[^"]*$))+)')

# CROSS JOIN: SQLite must walk the matches, newest first, and look the rest up, never the reverse.
MESSAGES = """
    FROM message_search CROSS JOIN message AS item ON item.id = message_search.rowid
    CROSS JOIN conversation ON conversation.id = item.conversation_id
    WHERE message_search MATCH :match
    AND (:project_id IS NULL OR conversation.project_id = :project_id)
    AND (:role IS NULL OR item.role = :role)
    AND (:status IS NULL OR conversation.status = :status)
    AND (:since IS NULL OR item.created_at >= :since)
    AND (:until IS NULL OR item.created_at < :until)
    ORDER BY message_search.rowid DESC LIMIT :limit OFFSET :offset
"""
# A document has no role and is never archived.
DOCUMENTS = """
    FROM document_search CROSS JOIN plan_document AS item ON item.id = document_search.rowid
    WHERE document_search MATCH :match
    AND (:project_id IS NULL OR item.project_id = :project_id)
    AND :role IS NULL AND coalesce(:status, 0) = 0
    AND (:since IS NULL OR item.created_time >= :since)
    AND (:until IS NULL OR item.created_time < :until)
    ORDER BY document_search.rowid DESC LIMIT :limit OFFSET :offset
"""
MESSAGE_KEYS = "SELECT 'message' AS type, item.id, item.created_at"
DOCUMENT_KEYS = "SELECT 'document' AS type, item.id, item.created_time AS created_at"
SCORED_TEXT = f", substr(item.content, 1, {SCORED}) AS content, length(item.content) AS length "
MESSAGE_ROWS = """
    SELECT 'message' AS type, message.id, conversation_id, conversation.name AS conversation_name,
        project_id, role, message.created_at, content
    FROM message JOIN conversation ON conversation.id = conversation_id
    WHERE message.id IN (SELECT value FROM json_each(:ids))
"""
DOCUMENT_ROWS = """
    SELECT 'document' AS type, id, project_id, category_id, filename, version,
        created_time AS created_at, content
    FROM plan_document WHERE id IN (SELECT value FROM json_each(:ids))
"""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for, and where; a condition that is None leaves nothing out."""

    q: str
    project_id: int | None = None
    role: str | None = None
    status: int | None = None
    since: str | None = None
    until: str | None = None
    limit: int = 20
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """A match, and how good it is; 0 where it was not ranked."""

    type: str
    id: int
    created_at: str
    score: float = 0


async def search(db: Database, query: Query) -> SearchPage:
    """One page of what matches. Invalid where the query says nothing."""
    wanted = terms(query.q)
    if not wanted:
        raise Invalid("must have something to look for", field="q")
    phrases = [index.tokens(term) for term in wanted]
    newest = await db.read(_newest, query, phrases)
    # Reading many long texts takes a while: other requests need not wait for it.
    ranked = await asyncio.to_thread(_ranked, newest, wanted)
    needed = query.offset + query.limit + 1 - RANKED
    older = await db.read(_older, query, phrases, needed) if needed > 0 else []
    end = query.offset + query.limit
    page = [*ranked, *older][query.offset : end + 1]
    rows = await db.read(_rows, page[: query.limit])
    results = await asyncio.to_thread(_shown, rows, phrases)
    return SearchPage(
        query=query.q, results=results, next_offset=end if len(page) > query.limit else None
    )


def terms(q: str) -> list[str]:
    """The words and phrases of a query; where it is nothing but quotes, those are meant."""
    found = [phrase or word for phrase, word in TERM.findall(q)]
    return [term for term in found if index.tokens(term)] or [q] * bool(index.tokens(q))


def _statement(query: Query, phrases: Sequence[str], limit: int, offset: int) -> dict[str, Any]:
    match = " AND ".join(f'"{phrase}"' for phrase in dict.fromkeys(phrases))
    parameters: dict[str, Any] = {"match": match, "limit": limit, "offset": offset}
    for name in ("project_id", "role", "status", "since", "until"):
        parameters[name] = getattr(query, name)
    return parameters


def _newest(session: Session, query: Query, phrases: Sequence[str]) -> list[Row[Any]]:
    parameters = _statement(query, phrases, RANKED, 0)
    messages = session.execute(text(MESSAGE_KEYS + SCORED_TEXT + MESSAGES), parameters)
    documents = session.execute(text(DOCUMENT_KEYS + SCORED_TEXT + DOCUMENTS), parameters)
    return [*messages, *documents]


def _ranked(newest: Sequence[Row[Any]], wanted: Sequence[str]) -> list[Key]:
    folded = [" ".join(index.fold(term).split()) for term in wanted]
    keys = [Key(row.type, row.id, row.created_at, _score(row, folded)) for row in newest]
    return sorted(keys, key=lambda key: (key.score, key.created_at, key.id), reverse=True)


def _score(row: Row[Any], folded: Sequence[str]) -> float:
    content = index.fold(row.content)
    penalty: float = 1 + row.length / TYPICAL_LENGTH
    # A word that is only further down, or in a document's name, still counts once.
    counts = [max(1, content.count(term)) for term in folded]
    return round(sum(count / (count + penalty) for count in counts) / len(counts), 6)


def _older(session: Session, query: Query, phrases: Sequence[str], count: int) -> list[Key]:
    """What comes behind the ranked ones."""
    parameters = _statement(query, phrases, count, RANKED)
    messages = session.execute(text(MESSAGE_KEYS + MESSAGES), parameters)
    documents = session.execute(text(DOCUMENT_KEYS + DOCUMENTS), parameters)
    kinds = ([Key(*row) for row in rows] for rows in (messages, documents))
    return list(heapq.merge(*kinds, key=lambda key: key.created_at, reverse=True))


def _rows(session: Session, page: Sequence[Key]) -> list[tuple[Key, Row[Any]]]:
    """The texts of a page; what went since it was found is left out."""
    rows: dict[tuple[str, int], Row[Any]] = {}
    for kind, statement in (("message", MESSAGE_ROWS), ("document", DOCUMENT_ROWS)):
        ids = [key.id for key in page if key.type == kind]
        if ids:
            found = session.execute(text(statement), {"ids": json.dumps(ids)})
            rows |= {(kind, row.id): row for row in found}
    return [(key, rows[key.type, key.id]) for key in page if (key.type, key.id) in rows]


def _shown(
    rows: Sequence[tuple[Key, Row[Any]]], phrases: Sequence[str]
) -> list[MessageFound | DocumentFound]:
    results: list[MessageFound | DocumentFound] = []
    for key, row in rows:
        fields = dict(row._mapping)
        snippet, hits = excerpt(fields.pop("content"), phrases)
        shape = MessageFound if key.type == "message" else DocumentFound
        results.append(shape(**fields, snippet=snippet, hits=hits, score=key.score))
    return results


def excerpt(content: str, phrases: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """About 120 characters around the first hit, and where all hits in them are."""
    tokens = index.tokens(content)
    numbers = [number for phrase in phrases for number in islice(_found(tokens, phrase), 1)]
    if not numbers:
        return content[:SNIPPET], []
    places = islice(index.places(content), min(numbers), None)
    longest = max(phrase.count(" ") for phrase in phrases) + 1
    window = list(islice(places, longest))
    start = max(0, min(window[0][1] - BEFORE_HIT, len(content) - SNIPPET))
    end = max(start + SNIPPET, window[-1][2])
    window += takewhile(lambda place: place[2] <= end, places)
    tokens = " ".join(token for token, _, _ in window)
    hits = {
        (window[number][1] - start, window[number + phrase.count(" ")][2] - start)
        for phrase in phrases
        for number in _found(tokens, phrase)
    }
    return content[start:end], sorted(hits)


def _found(tokens: str, phrase: str) -> Iterator[int]:
    """The numbers of the tokens at which a phrase begins."""
    spaced, sought, at, number = f" {tokens} ", f" {phrase} ", 0, 0
    while (found := spaced.find(sought, at)) >= 0:
        number += spaced.count(" ", at, found)
        yield number
        at, number = found + 1, number + 1
