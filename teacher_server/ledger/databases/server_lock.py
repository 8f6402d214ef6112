"""One server per SQLite ledger: a lock on a file beside it, which the operating system releases with the process."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.address import beside_ledger, parse_ledger_url

_SUFFIX = ".server-lock"


@contextmanager
def hold_for_server(url: str) -> Iterator[None]:
    """Keep other servers off a SQLite ledger; the command line may still write. PostgreSQL needs no lock.

    Raises OperatorError when another server holds it.
    """
    file = beside_ledger(url, _SUFFIX)
    if file is None:
        yield
        return
    _require_one_name(url)
    # Not at once: is_held_by_server has the lock for a moment.
    lock = FileLock(file, timeout=0.2)
    try:
        lock.acquire()
    except Timeout as error:
        raise OperatorError(
            f"ledger {url} is in use by another server process; one server per SQLite ledger. For several, keep the "
            "ledger in PostgreSQL: --ledger postgresql://..."
        ) from error
    except OSError as error:
        raise OperatorError(f"ledger {url} cannot be locked: {error}") from error
    try:
        yield
    finally:
        lock.release()


def is_held_by_server(url: str) -> bool:
    """Whether a server runs on this SQLite ledger now. Raises OperatorError for an URL that is no ledger's."""
    file = beside_ledger(url, _SUFFIX)
    if file is None or not file.exists():  # no server ever ran here: a mistyped ledger is to leave no file behind
        return False
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError as error:
        raise OperatorError(f"ledger {url} cannot be locked: {error}") from error
    lock.release()
    return False


def _require_one_name(url: str) -> None:
    """A file with two names (hard links) would have two locks."""
    file = parse_ledger_url(url).file
    if file and file.exists() and file.stat().st_nlink > 1:
        raise OperatorError(f"ledger {url}: the file has {file.stat().st_nlink} names (hard links); allowed is one")
