"""Where a ledger is: its URL, read once and shown without its password; and the server's own files beside it."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from teacher_server.errors import OperatorError

ALLOWED = "sqlite:///FILE or postgresql://USER@HOST/DATABASE"
_SQLITE = ("sqlite", "sqlite+pysqlite")
_POSTGRESQL = ("postgresql", "postgresql+psycopg", "postgres")


@dataclass(frozen=True)
class LedgerAddress:
    """A parsed ledger URL. ``file`` is set for SQLite only.

    ``shown`` is the URL for people and logs: as it was given, but with a file's whole path, or a password masked.
    """

    url: URL
    file: Path | None
    shown: str

    def signing_key_file(self, given: Path | None) -> Path | None:
        """Where the private signing key is: where told, else beside a SQLite ledger; else nobody knows."""
        if given is None and self.file is not None:
            return Path(f"{self.file}.signing-key.pem")
        return given


def parse_ledger_url(url: str) -> LedgerAddress:
    """Read a ledger URL. Raises OperatorError that says what is allowed and never repeats a password."""
    if not url.isprintable():
        raise OperatorError(f"ledger holds control characters, or bytes that are no UTF-8; allowed is {ALLOWED}")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # the latter for a port that is no number
        # What cannot be taken apart cannot be masked.
        may_hold_one = "@" in url or "password" in url.lower() or url.count(":") > 1
        shown = "an URL that cannot be read" if may_hold_one else repr(url)
        raise OperatorError(f"ledger is {shown}; allowed is {ALLOWED}") from error
    if parsed.drivername in _POSTGRESQL:
        if not parsed.database:
            raise OperatorError(f"ledger {_masked(parsed)} names no database; allowed is {ALLOWED}")
        shown = _masked(parsed) if _secrets_in(parsed) or parsed.password else url
        return LedgerAddress(parsed.set(drivername="postgresql+psycopg"), None, shown)
    if parsed.drivername not in _SQLITE or not parsed.database or parsed.database == ":memory:":
        raise OperatorError(
            f"ledger is {_masked(parsed)!r}; allowed is {ALLOWED} (sqlite: three slashes, then a path)"
        )
    if parsed.query:
        raise OperatorError(f"ledger is {_masked(parsed)!r}; allowed is sqlite:///FILE without parameters")
    file = Path(parsed.database).resolve()  # two names of one file must not be two locks
    if not file.parent.is_dir():
        raise OperatorError(f"ledger is {url!r}, but the folder {file.parent} does not exist")
    if file.is_dir():
        raise OperatorError(f"ledger is {url!r}, which is a folder; allowed is a file")
    return LedgerAddress(parsed, file, f"sqlite:///{file}")


def beside_ledger(url: str, suffix: str) -> Path | None:
    """A file of the server's own beside the ledger; None for PostgreSQL. Raises OperatorError for a bad URL."""
    file = parse_ledger_url(url).file
    return Path(f"{file}{suffix}") if file else None


def _masked(url: URL) -> str:
    shown = url.update_query_dict(dict.fromkeys(_secrets_in(url), "***")).render_as_string(hide_password=True)
    return shown.replace("%2A%2A%2A", "***")


def _secrets_in(url: URL) -> list[str]:
    return [name for name in url.query if "password" in name.lower()]
