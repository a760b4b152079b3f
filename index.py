"""The search index: what a token is, and the tables and triggers that keep the index right.

A CJK character is a token by itself, and so is every punctuation mark and emoji; a run of other
letters and digits is one, folded (every 64 of them, in a longer run). Words and phrases of any
script are then sequences of tokens, which FTS5 finds exactly, be they one character or a hundred.

Triggers keep the index, so it changes in the very transaction that changes a text, cascades
included. They call `search_tokens`, which every connection that writes texts must be given.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection

# Scripts without blanks between words. A decomposed syllable or kana is one, as its composed twin.
ALONE = (
    "[\u1100-\u115f][\u1160-\u11a7][\u11a8-\u11ff]?|[\u3041-\u3096\u30a1-\u30fa][\u3099\u309a]?"
    "|[々〆〇\u3031-\u3035\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\U00016fe0-\U00018cff\U0001aff0-\U0001b2ff\U00020000-\U000323af"
    "\u0e01-\u0e3a\u0e40-\u0e59\u0e81-\u0edf\u1000-\u109f\ua9e0-\ua9fe\uaa60-\uaa7f"
    "\u1780-\u17d3\u17d7\u17dc-\u17f9]"
)
MARKS = "\u0300-\u036f"
LETTER = rf"(?!{ALONE})[^\W_]"
LONGEST_RUN = 64
TOKEN = re.compile(rf"{ALONE}|(?:{LETTER}[{MARKS}]{{0,8}}){{1,{LONGEST_RUN}}}|[^\s\ufe00-\ufe0f]")
ALONE_TOKEN = re.compile(ALONE)
MARK = re.compile(f"[{MARKS}]")
# What is neither letter nor digit is indexed as its number, behind a character for private use.
SYMBOL = "\ue000"
KNOWN_TOKENS = 65_536
LONG = 1_000_000

# FTS5's `ascii` takes every character beyond ASCII for a part of a token, whichever Unicode version
# it came with; `unicode61` drops what was assigned after 2012. All folding is done here.
SCHEMA = """
CREATE VIRTUAL TABLE message_search
USING fts5(content, content='', columnsize=0, tokenize='ascii');

CREATE VIRTUAL TABLE document_search
USING fts5(filename, content, content='', columnsize=0, tokenize='ascii');

CREATE TRIGGER message_search_insert AFTER INSERT ON message
WHEN new.status <> 'streaming' BEGIN
    INSERT INTO message_search (rowid, content) VALUES (new.id, search_tokens(new.content));
END;

CREATE TRIGGER message_search_update AFTER UPDATE OF content, status ON message
WHEN old.content <> new.content OR (old.status = 'streaming') <> (new.status = 'streaming') BEGIN
    INSERT INTO message_search (message_search, rowid, content)
    SELECT 'delete', old.id, search_tokens(old.content) WHERE old.status <> 'streaming';
    INSERT INTO message_search (rowid, content)
    SELECT new.id, search_tokens(new.content) WHERE new.status <> 'streaming';
END;

CREATE TRIGGER message_search_delete AFTER DELETE ON message
WHEN old.status <> 'streaming' BEGIN
    INSERT INTO message_search (message_search, rowid, content)
    VALUES ('delete', old.id, search_tokens(old.content));
END;

CREATE TRIGGER document_search_insert AFTER INSERT ON plan_document BEGIN
    INSERT INTO document_search (rowid, filename, content)
    VALUES (new.id, search_tokens(new.filename), search_tokens(new.content));
END;

CREATE TRIGGER document_search_update AFTER UPDATE OF filename, content ON plan_document BEGIN
    INSERT INTO document_search (document_search, rowid, filename, content)
    VALUES ('delete', old.id, search_tokens(old.filename), search_tokens(old.content));
    INSERT INTO document_search (rowid, filename, content)
    VALUES (new.id, search_tokens(new.filename), search_tokens(new.content));
END;

CREATE TRIGGER document_search_delete AFTER DELETE ON plan_document BEGIN
    INSERT INTO document_search (document_search, rowid, filename, content)
    VALUES ('delete', old.id, search_tokens(old.filename), search_tokens(old.content));
END;
"""

REBUILD = (
    "INSERT INTO message_search (message_search) VALUES ('delete-all')",
    """
    INSERT INTO message_search (rowid, content)
    SELECT id, search_tokens(content) FROM message WHERE status <> 'streaming'
    """,
    "INSERT INTO document_search (document_search) VALUES ('delete-all')",
    """
    INSERT INTO document_search (rowid, filename, content)
    SELECT id, search_tokens(filename), search_tokens(content) FROM plan_document
    """,
)


def register(connection: Any) -> None:
    """Give an SQLite connection the function that the triggers call."""
    connection.create_function("search_tokens", 1, tokens, deterministic=True)


def create(connection: Connection) -> None:
    """Make the tables and triggers of a new file."""
    for statement in SCHEMA.strip().split("\n\n"):
        connection.exec_driver_sql(statement)


def rebuild(connection: Connection) -> None:
    """Make the whole index anew from the texts."""
    for statement in REBUILD:
        connection.exec_driver_sql(statement)


def tokens(text: str) -> str:
    """A text's tokens in their order, with blanks between."""
    if len(text) < LONG:
        return " ".join(map(_indexed, TOKEN.findall(text)))
    # A list of all tokens is faster, and dozens of times as large as the text.
    return " ".join(_indexed(match[0]) for match in TOKEN.finditer(text))


def places(text: str) -> Iterator[tuple[str, int, int]]:
    """A text's tokens one by one, each with where it begins and ends in the text."""
    for match in TOKEN.finditer(text):
        yield _indexed(match[0]), match.start(), match.end()


def fold(text: str) -> str:
    """A text without accents and without case."""
    return MARK.sub("", unicodedata.normalize("NFD", text)).casefold()


@lru_cache(KNOWN_TOKENS)
def _indexed(token: str) -> str:
    if ALONE_TOKEN.fullmatch(token):
        return unicodedata.normalize("NFC", token)
    if token[0].isalnum():
        return fold(token)
    return f"{SYMBOL}{ord(token):x}"
