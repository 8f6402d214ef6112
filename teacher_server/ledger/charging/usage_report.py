"""What was sold to whom: sums over the events that budgets are checked against, so they are the same sums."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select

from teacher_server.errors import OperatorError
from teacher_server.ledger.clock import as_text
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import find_key
from teacher_server.ledger.tables import events

_GROUPS: dict[str, ColumnElement[Any]] = {
    "key": events.c.key_name,
    "teacher": events.c.teacher,
    "day": func.substr(events.c.at, 1, len("2026-12-31")),
}
GROUPS = tuple(_GROUPS)


@dataclass(frozen=True)
class Sold:
    """Answered requests and their images, of one value of each group asked for."""

    group: tuple[str, ...]
    requests: int
    images: int


def report_usage(
    database: Database,
    *,
    by: Sequence[str],
    key_name: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Sold]:
    """Sum the charged answers of all keys or one, in order of the groups ``by`` (some of ``GROUPS``, UTC days).

    From ``since`` until before ``until``. Raises OperatorError for an unknown group or key, or an empty time, and
    Refusal(ledger_unavailable).
    """
    if not by or len(set(by)) < len(by) or set(by) - set(GROUPS):
        raise OperatorError(f"by is {','.join(by)!r}; allowed are {', '.join(GROUPS)}, each once, with commas")
    if since and until and since >= until:
        raise OperatorError(f"until is {as_text(until)}, which is not after since, {as_text(since)}")
    wanted = [events.c.kind == "answer"]
    if key_name is not None:
        wanted.append(events.c.key_id == find_key(database, key_name).id)
    if since:
        wanted.append(events.c.at >= as_text(since))
    if until:
        wanted.append(events.c.at < as_text(until))
    groups = [_GROUPS[name].label(name) for name in by]
    sums = (func.count().label("requests"), func.sum(events.c.images).label("images"))
    statement = select(*groups, *sums).where(*wanted).group_by(*groups).order_by(*groups)
    with database.reading() as connection:
        rows = connection.execute(statement).all()
    return [Sold(tuple(row[: len(by)]), int(row.requests), int(row.images)) for row in rows]
