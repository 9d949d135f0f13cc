"""A connection to the PostgreSQL database that several hosts share: its address, its schema, and what its errors mean.

The address holds a password, so it comes from the environment variable `SIF_LEDGER`, and is never shown: messages name
host, port and database.
"""

from __future__ import annotations

import re
from importlib import resources

import psycopg
from psycopg import conninfo, sql

from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import VARIABLE

SCHEMA = "sifthinker"
CONNECT = 5  # seconds
_OLDEST = 13  # of the server: it can say whether a transaction was committed (pg_xact_status)
_LOCK = 0x51F7_11E4  # of the schema's changes, and of the ledger's transactions: any constant does
_SCHEMES = ("postgresql://", "postgres://")
# A host that is gone is noticed within seconds. The URL may say otherwise.
_DEFAULTS = {
    "connect_timeout": CONNECT,
    "application_name": "sifthinker",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
# A host that hangs in the middle of a transaction gives its locks back before the others give up waiting for them.
_SESSION = f"""
SET search_path = {SCHEMA};
SET idle_in_transaction_session_timeout = '20s';
SET lock_timeout = '60s';
SET client_encoding = 'UTF8';
"""

Connection = psycopg.Connection[tuple[object, ...]]


class Database:
    """Where the database is."""

    def __init__(self, url: str) -> None:
        """Reads the address; nothing is connected.

        Raises:
            UserError: it is none.
        """
        if not url.startswith(_SCHEMES):
            raise _wrong("")
        try:
            self._given = conninfo.conninfo_to_dict(url)
        except psycopg.Error:  # its words show the address, with the password
            raise _wrong(": it has an unknown parameter, or a % that stands for nothing") from None
        if any("@" in str(self._given.get(name) or "") for name in ("host", "port", "dbname")):
            raise _wrong(": in a password, @ is written %40, / %2F, and : %3A")
        if not re.fullmatch(r"[\d,]*", str(self._given.get("port") or "")):
            raise _wrong(": its port is no number")
        self._password = str(self._given.get("password") or "")
        host, port = self._given.get("host") or "localhost", self._given.get("port") or 5432
        self.name = f"PostgreSQL {host}:{port}/{self._given.get('dbname') or self._given.get('user') or ''}"

    def connect(self) -> Connection:
        """A connection in autocommit mode, in the project's schema.

        Raises:
            psycopg.Error: there is none.
        """
        db = psycopg.connect(**{**_DEFAULTS, **self._given}, autocommit=True)  # type: ignore[arg-type]
        try:
            db.execute(_SESSION)
        except BaseException:
            db.close()
            raise
        return db

    def open(self) -> Connection:
        """`connect`, with the tables there; makes them, or brings them up to date.

        Raises:
            UserError: there is no connection, or the schema cannot be made, or is of a newer version.
        """
        try:
            db = self.connect()
        except psycopg.Error as error:
            todo = f"start it, or correct {VARIABLE}"
            raise UserError(
                f"{self.name}: cannot connect to the ledger: {self.words(error)}; {todo}"
            ) from None
        try:
            self._migrate(db)
        except psycopg.Error as error:
            db.close()
            todo = f"its user needs the right to create the schema {SCHEMA} (GRANT CREATE ON DATABASE) and to use it"
            raise UserError(f"{self.name}: cannot open the ledger: {self.words(error)}; {todo}") from None
        except BaseException:
            db.close()
            raise
        return db

    def identity(self) -> str:
        """What tells this ledger from all others, by whatever address it is reached: its database, and when it was made.

        Managed servers may forbid the server's own identifier (`pg_control_system`), so that is not asked for.

        Raises:
            UserError: there is no connection.
        """
        with self.open() as db:
            row = db.execute(
                "SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text,"
                " (SELECT extract(epoch FROM min(at)) FROM versions)::text"
            ).fetchone()
        assert row is not None, "it always has one"
        return "/".join(map(str, row))

    def words(self, error: BaseException) -> str:
        """What an error says, on one line and without the password."""
        text = " ".join(str(error).split()) or type(error).__name__
        return text.replace(self._password, "***") if self._password else text

    def _migrate(self, db: Connection) -> None:
        """Runs the files of `schema/` that this database has not seen, in order, in one transaction."""
        if db.info.server_version < _OLDEST * 10_000:
            raise UserError(
                f"{self.name}: PostgreSQL {_OLDEST} or newer is needed, this is {db.info.server_version // 10_000}"
            )
        files = {int(file.name[:4]): file for file in (resources.files(__package__) / "schema").iterdir()}
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])  # hosts that start together
            if not db.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [SCHEMA]).fetchone():
                db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            if not db.execute("SELECT 1 WHERE to_regclass('versions') IS NOT NULL").fetchone():
                db.execute(
                    "CREATE TABLE versions (number int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
                )
            seen = {int(str(number)) for (number,) in db.execute("SELECT number FROM versions")}
            if newer := seen - files.keys():
                raise UserError(
                    f"{self.name}: the ledger's schema is version {max(newer)}, this code knows {max(files)}: a newer "
                    "release has used it. Update this host"
                )
            for number in sorted(files.keys() - seen):
                db.execute(files[number].read_bytes())
                db.execute("INSERT INTO versions (number) VALUES (%s)", [number])


def begin(db: Connection) -> str:
    """Begins a transaction that keeps out all others that begin so; its number at the server."""
    cursor = db.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK}); SELECT pg_current_xact_id()::text")
    while cursor.nextset():
        pass
    row = cursor.fetchone()
    assert row is not None, "the last statement has a row"
    return str(row[0])


def _wrong(why: str) -> UserError:
    """Says what is wrong with the address, without showing any of it."""
    example = "write postgresql://user:password@host:port/database"
    return UserError(f"{VARIABLE} is no address of a PostgreSQL database{why}; {example}")
