"""Where a test's ledger is: a fresh SQLite file, or a fresh database of a real PostgreSQL."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.ledger.lifecycle.opening import open_database
from tests.postgresql import PostgreSQL
from tests.teacher_server.support import PROBABILITIES

KINDS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class LedgerPlace:
    """A ledger's URL and the file of its signing key; ``postgresql`` is the server it is in, where it is in one."""

    kind: str
    url: str
    signing_key: Path
    postgresql: PostgreSQL | None = None

    @property
    def env(self) -> dict[str, str]:
        """What programs read it from."""
        return {"TEACHER_LEDGER": self.url, "TEACHER_SIGNING_KEY": str(self.signing_key)}

    @property
    def is_empty(self) -> bool:
        """Whether no ledger has been made here."""
        return not self.signing_key.exists()

    @contextmanager
    def open(self, *, create: bool = False) -> Iterator[Database]:
        """Open it beside whoever uses it."""
        with closing(open_database(self.url, create=create, signing_key=self.signing_key)) as database:
            yield database

    def new_secret(self, name: str, *, budget: int) -> str:
        """Make the ledger if it is not there, and a key in it; the key's secret."""
        with self.open(create=True) as database:
            return create_key(database, name=name, budget=budget, disclosure=PROBABILITIES, expires_at=None)[1]


def sqlite_place(folder: Path) -> LedgerPlace:
    """A ledger file in ``folder``, not made yet."""
    file = folder / "ledger.db"
    return LedgerPlace("sqlite", f"sqlite:///{file}", Path(f"{file}.signing-key.pem"))


def postgresql_place(folder: Path, server: PostgreSQL) -> LedgerPlace:
    """An empty database, and a place for the signing key in ``folder``."""
    return LedgerPlace("postgresql", server.empty_database(), folder / "signing-key.pem", server)


@dataclass(frozen=True)
class Prepared:
    """A new ledger with what ``write`` writes: an SQLite file once in a pytest process, then copies of it.

    The copies have the same name, signing keys and times. PostgreSQL copies more slowly than it is written to.
    """

    write: Callable[[Database], None]
    _folders: list[Path] = field(default_factory=list)

    def put_into(self, place: LedgerPlace) -> None:
        """Make this ledger in an empty place, one of ``sqlite_place`` or ``postgresql_place``."""
        assert place.is_empty
        if place.kind == "sqlite":
            for file in self._folder().iterdir():
                shutil.copy(file, place.signing_key.parent)
        else:
            self._write_into(place)

    def _folder(self) -> Path:
        if not self._folders:
            folder = Path(tempfile.mkdtemp(prefix="ledger-template-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            self._write_into(sqlite_place(folder))
            self._folders.append(folder)
        return self._folders[0]

    def _write_into(self, place: LedgerPlace) -> None:
        with place.open(create=True) as database:
            self.write(database)


NEW_LEDGER = Prepared(lambda _: None)
