"""The table in one SQLite file, in WAL mode: several processes and threads may use it at once.

`Store` asks for atomic conditional writes and strongly consistent reads; SQLite gives both within one transaction that
takes the write lock first (BEGIN IMMEDIATE). Text is compared by its UTF-8 bytes, as DynamoDB compares its keys.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import random
from typing import TYPE_CHECKING, Any

from ..core.errors import ItemTooLarge, LayoutMismatch, Misconfigured, Unavailable
from ..core.log import LAYOUT
from ..ports import MAX_ITEM_BYTES, MAX_WRITE_BYTES, MAX_WRITES, Drop, Item, Put, Refused, item_bytes, key_of

if TYPE_CHECKING:
    from ..ports import Write

APPLICATION_ID = 0x4F4E5744  # "ONWD": tells a store of ours from any other SQLite file
BUSY_TIMEOUT_S = 30.0
BUSY_TRIES = 300
PRIMARY_CODE = 0xFF  # of SQLite's extended error codes
LOCK_PAUSE_S = 0.002  # at most, between two tries to get the write lock
_WAIT = f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1000)}"

_SCHEMA = """
CREATE TABLE items (
    partition TEXT NOT NULL, sort TEXT NOT NULL, token TEXT NOT NULL, body TEXT NOT NULL, value TEXT, due_ms INTEGER,
    PRIMARY KEY (partition, sort)
) WITHOUT ROWID;
CREATE INDEX due ON items (due_ms) WHERE due_ms IS NOT NULL;
CREATE TABLE marks (
    partition TEXT NOT NULL, sort TEXT NOT NULL, name TEXT NOT NULL, member TEXT NOT NULL,
    PRIMARY KEY (partition, sort, name, member)
) WITHOUT ROWID;
CREATE TABLE wakes (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, wake TEXT NOT NULL, owner TEXT);
CREATE INDEX wakes_at ON wakes (at_ms);
"""
_WRITING = {
    sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_ALTER_TABLE,
}  # fmt: skip
_FORBIDDEN = {
    sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT, sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH,
    sqlite3.SQLITE_PRAGMA,
}  # fmt: skip
_COLUMNS = "partition, sort, token, body, value, due_ms"


class SqliteStore:
    """`path`: the file, made if it is not there, or ":memory:". One connection, used by one thread at a time.
    `read_only`: the file must be there, and SQLite itself refuses every write."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = os.fspath(path)
        self.read_only = read_only
        self._lock = threading.RLock()
        place = f"{Path(self.path).absolute().as_uri()}?mode=ro" if read_only else self.path
        try:
            if self.path != ":memory:" and not read_only:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                place, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, uri=read_only
            )
        except (OSError, sqlite3.Error) as error:
            raise Misconfigured(f"cannot open the store {self.path!r}: {error}") from error
        try:
            self._open()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> None:
        try:
            if self.read_only:
                self._check_layout(self._connection)
                return
            with self.transaction() as db:
                (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if tables == 0:
                    for statement in _SCHEMA.split(";")[:-1]:
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    db.execute(f"PRAGMA user_version = {LAYOUT}")
                else:
                    self._check_layout(db)
            self._to_wal()
            self._connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            raise Misconfigured(f"{self.path!r} cannot be used as a store: {error}") from error

    def _check_layout(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (application,) = db.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise Misconfigured(f"{self.path!r} is a SQLite file, but not a store of Onward: name another file")
        if version != LAYOUT:
            raise LayoutMismatch(
                f"the store {self.path!r} has layout {version}, this Onward knows layout {LAYOUT}: "
                + ("upgrade onward" if version > LAYOUT else "name another file, or finish its runs with the older one")
            )

    def _to_wal(self) -> None:
        """Switch the file to write-ahead logging. SQLite does not wait for this lock as it does for others, so where
        several processes open a new file at once, all but one try again."""
        for attempt in range(BUSY_TRIES):
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if attempt == BUSY_TRIES - 1:
                    raise
                time.sleep(BUSY_TIMEOUT_S / BUSY_TRIES)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, inside one transaction that holds the write lock: committed, or rolled back on any error."""
        with self._lock:
            self._begin()
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise Unavailable(f"the store {self.path!r} cannot be written: {error}") from error
                raise

    def _begin(self) -> None:
        """Take the write lock, as soon as other processes let it; raises `Unavailable`.

        SQLite itself would ask for it at growing intervals, up to 100 ms, and nobody stands in line: beside processes
        that ask without a pause, another one waits for seconds. So here it is asked for at short intervals of chance.
        """
        ends_s = time.monotonic() + BUSY_TIMEOUT_S
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            while True:
                try:
                    self._connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_BUSY:
                        raise Unavailable(f"the store {self.path!r} cannot be written: {error}") from error
                    if time.monotonic() > ends_s:
                        raise Unavailable(f"the store {self.path!r} is locked by another process: {error}") from error
                time.sleep(random() * LOCK_PAUSE_S)
        finally:
            self._connection.execute(_WAIT)

    def rows(self, query: str, parameters: Sequence[object]) -> list[tuple[object, ...]]:
        """What a query finds, read without taking the write lock."""
        try:
            with self._lock:
                return self._connection.execute(query, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the store {self.path!r} cannot be read: {error}") from error

    # ---------------------------------------------------------------------------------------------- the port
    def read(
        self, partition: str, first: str, last: str, *, limit: int | None = None, newest_first: bool = False
    ) -> list[Item]:
        order = "DESC" if newest_first else "ASC"
        rows = self.rows(
            f"SELECT {_COLUMNS} FROM items WHERE partition = ? AND sort BETWEEN ? AND ? ORDER BY sort {order} LIMIT ?",
            (partition, first, last, -1 if limit is None else limit),
        )
        return [Item(*row) for row in rows]  # type: ignore[arg-type]

    def get(self, keys: Sequence[tuple[str, str]]) -> list[Item | None]:
        with self._lock:
            found = [self.rows(f"SELECT {_COLUMNS} FROM items WHERE partition = ? AND sort = ?", key) for key in keys]
        return [Item(*rows[0]) if rows else None for rows in found]  # type: ignore[arg-type]

    def write(self, writes: Sequence[Write], also: Sequence[Any] = ()) -> Refused | None:
        if not writes or len(writes) + len(also) > MAX_WRITES:
            raise ValueError(f"1 to {MAX_WRITES} writes at once, not {len(writes) + len(also)}")
        _check_sizes([write.item for write in writes if not isinstance(write, Drop)])
        try:
            return self._write(writes, also)
        except _StatementRefused as refused:
            return Refused([None] * len(writes), str(refused))

    def _write(self, writes: Sequence[Write], also: Sequence[Any]) -> Refused | None:
        with self.transaction() as db:
            standing = [self._standing(db, write) for write in writes]
            if any(refused for refused, _ in standing):
                return Refused([item for _, item in standing])
            for place, statement in enumerate(also):
                _execute(db, statement, f"write {place + 1} of {len(also)}")
            for write in writes:
                if isinstance(write, Drop):
                    db.execute("DELETE FROM items WHERE partition = ? AND sort = ?", key_of(write))
                    continue
                item = write.item
                db.execute(
                    f"INSERT OR REPLACE INTO items ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                    (item.partition, item.sort, item.token, item.body, item.value, item.due_ms),
                )
        return None

    def _standing(self, db: sqlite3.Connection, write: Write) -> tuple[bool, Item | None]:
        """Whether this write must be refused, and the item that is the reason."""
        row = db.execute(f"SELECT {_COLUMNS} FROM items WHERE partition = ? AND sort = ?", key_of(write)).fetchone()
        item = None if row is None else Item(*row)
        if isinstance(write, Put):
            return item is not None, item
        if isinstance(write, Drop):
            refused = item is not None and write.expected not in (None, item.token)
        else:
            refused = item is None or item.token != write.expected
        return refused, item if refused else None

    def mark(self, partition: str, sort: str, adds: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?)",
                [(partition, sort, name, member) for name, members in adds.items() for member in members],
            )
            return self.marks(partition, sort)

    def marks(self, partition: str, sort: str) -> dict[str, frozenset[str]]:
        sets: dict[str, set[str]] = {}
        for name, member in self.rows(
            "SELECT name, member FROM marks WHERE partition = ? AND sort = ?", (partition, sort)
        ):
            sets.setdefault(str(name), set()).add(str(member))
        return {name: frozenset(members) for name, members in sets.items()}

    def due(self, before_ms: int, limit: int) -> list[tuple[str, str, int]]:
        rows = self.rows(
            "SELECT partition, sort, due_ms FROM items WHERE due_ms <= ? ORDER BY due_ms LIMIT ?", (before_ms, limit)
        )
        return [(str(partition), str(sort), _milliseconds(due_ms)) for partition, sort, due_ms in rows]


class _StatementRefused(Exception):
    """A statement of the user's was refused, and with it the transaction."""


def _execute(db: sqlite3.Connection, statement: Any, which: str) -> None:
    """Execute one statement of the user's, on tables of the user's. A transaction, a pragma, or another file would
    take it out of the transaction in which it stands."""
    pair = isinstance(statement, list | tuple) and len(statement) == 2
    if not pair or not isinstance(statement[0], str):
        raise _StatementRefused(f"{which} is no (sql, parameters), as SQLite needs it: {statement!r:.200}")
    sql, parameters = statement
    db.set_authorizer(_allow)
    try:
        db.execute(sql, parameters)
    except (sqlite3.Error, TypeError, ValueError) as error:
        if (
            isinstance(error, sqlite3.OperationalError)
            and error.sqlite_errorcode & PRIMARY_CODE != sqlite3.SQLITE_ERROR
        ):
            raise  # no fault of the statement
        raise _StatementRefused(f"{which} ({sql:.80}): {type(error).__name__}: {error}") from error
    finally:
        db.set_authorizer(None)


def _allow(action: int, first: str | None, *rest: str | None) -> int:
    """What SQLite asks about each action of a user's statement, as it prepares it."""
    ours = action in _WRITING and first in ("items", "marks", "wakes")
    return sqlite3.SQLITE_DENY if ours or action in _FORBIDDEN else sqlite3.SQLITE_OK


def _milliseconds(number: object) -> int:
    """A time of ours is a whole number; one that somebody else wrote must not keep the rest from being read."""
    return number if isinstance(number, int) else round(float(str(number)))


def _check_sizes(items: Sequence[Item]) -> None:
    """DynamoDB's limits, by DynamoDB's measure: what is written on a laptop can be written when it is deployed."""
    sizes = [item_bytes(item) for item in items]
    if max(sizes, default=0) > MAX_ITEM_BYTES:
        raise ItemTooLarge(
            f"an item of {max(sizes):,} bytes is over the {MAX_ITEM_BYTES:,} that a table's item may have"
        )
    if sum(sizes) > MAX_WRITE_BYTES:
        raise ItemTooLarge(f"{len(items)} items of {sum(sizes):,} bytes are over the {MAX_WRITE_BYTES:,} of one write")
