"""Which budgets their owner has to be told of. What was told is kept, so that a crash loses no alert."""

from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.budget_shares import passed_percents
from teacher_server.ledger.tables import keys, ledger


@dataclass(frozen=True)
class BudgetAlert:
    """A key has spent ``passed`` percents of its budget that its owner has not been told of, the highest last."""

    ledger: str
    key_id: int
    key_name: str
    passed: tuple[int, ...]
    spent: int
    granted: int

    @property
    def percent(self) -> int:
        """The highest step passed."""
        return self.passed[-1]


def due_alerts(database: Database) -> list[BudgetAlert]:
    """Every alert that is owed, oldest key first. Raises Refusal(ledger_unavailable)."""
    spent_much = (keys.c.spent * 2 >= keys.c.granted) & (keys.c.granted > 0) & keys.c.revoked_at.is_(None)
    with database.reading() as connection:
        name = connection.execute(select(ledger.c.name)).scalar_one()
        rows = connection.execute(select(keys).where(spent_much).order_by(keys.c.id)).mappings().all()
    due = []
    for row in rows:
        passed = passed_percents(spent=row["spent"], granted=row["granted"])
        untold = tuple(percent for percent in passed if percent > row["alerted_percent"])
        if untold:
            due.append(BudgetAlert(name, row["id"], row["name"], untold, row["spent"], row["granted"]))
    return due


def mark_told(database: Database, alert: BudgetAlert) -> None:
    """Keep that the owner was told; a grant made meanwhile has its own say. Raises Refusal(ledger_unavailable)."""

    def work(connection: Connection) -> None:
        as_it_was = (keys.c.id == alert.key_id) & (keys.c.granted == alert.granted)
        connection.execute(
            update(keys)
            .where(as_it_was, keys.c.alerted_percent < alert.percent)
            .values(alerted_percent=alert.percent)
        )

    database.write(work)
