"""Statements that every turn runs: put into SQL once, and handed to SQLite's own driver.

SQLAlchemy would take five times as long to run one as SQLite does: it looks up what it made of it
before, makes a context and a result. What is rare is run by the session itself.
"""

import json
from collections import namedtuple
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import AdaptedConnection, Connection, SelectBase, UpdateBase
from sqlalchemy.dialects import sqlite
from sqlmodel import Session

from models import Json


def fetch(connection: Connection, sql: str, values: Any = ()) -> list[Any]:
    """Run SQL and take all its rows."""
    driver: Any = connection.connection.dbapi_connection
    found: list[Any]
    if isinstance(driver, AdaptedConnection):
        # A reader's, on a thread of its own: there and back once, where a cursor goes four times.
        found = driver.run_async(lambda reader: reader.execute_fetchall(sql, values))
    else:
        found = driver.execute(sql, values).fetchall()
    return found


class Statement:
    """A statement in the transaction of the session that it is run on.

    Values are bound by name; JSON goes in and comes out as it does through the tables' classes.
    """

    def __init__(self, statement: UpdateBase | SelectBase) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        self._sql = str(compiled)
        self._constants = {k: v for k, v in compiled.params.items() if v is not None}
        columns = [*statement.selected_columns] if isinstance(statement, SelectBase) else []
        self._json = [number for number, c in enumerate(columns) if isinstance(c.type, Json)]
        names = [str(column.key) for column in columns]
        row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]
        self._named = row._make

    def run(self, session: Session, **values: Any) -> Any:
        """Change something; the driver's cursor."""
        cursor = session.connection().connection.cursor()
        cursor.execute(self._sql, self._bound(values))
        return cursor

    def run_many(self, session: Session, rows: Iterable[dict[str, Any]]) -> None:
        session.connection().connection.cursor().executemany(self._sql, [*map(self._bound, rows)])

    def rows(self, session: Session, **values: Any) -> list[Any]:
        """What it finds, each row a tuple with the names of its columns."""
        found = fetch(session.connection(), self._sql, self._bound(values))
        return [*map(self._named, map(self._decoded, found) if self._json else found)]

    def _bound(self, values: dict[str, Any]) -> dict[str, Any]:
        texts = {k: json.dumps(v) for k, v in values.items() if isinstance(v, dict | list)}
        return {**self._constants, **values, **texts}

    def _decoded(self, row: Sequence[Any]) -> list[Any]:
        values = [*row]
        for number in self._json:
            values[number] = json.loads(values[number] or "null")
        return values
