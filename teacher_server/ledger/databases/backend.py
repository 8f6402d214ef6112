"""What a ledger needs of the database below it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine


@dataclass(frozen=True)
class Backend:
    """Two ways into one database.

    ``reading`` begins a snapshot, ``writing`` a transaction that is durable once its commit returns.
    ``require_there`` raises OSError when what is open is no longer the ledger. ``lock_for_migration`` keeps others
    from migrating at the same time, where beginning a write does not. ``has_one_writer``: charges that wait together
    share a commit. ``alone`` keeps out other processes that ask for it too, and tells whether it could.
    """

    reading: Engine
    writing: Engine
    require_there: Callable[[], None]
    lock_for_migration: Callable[[Connection], None] | None
    has_one_writer: bool
    alone: Callable[[], AbstractContextManager[bool]]
