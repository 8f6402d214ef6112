"""Stored values expire; the record that they were charged stays, and with it the promise of one charge."""

import pytest
from sqlalchemy import select, text

from teacher_server.errors import Refusal
from teacher_server.ledger.charging.answers import Answered, Expired, expire_bodies
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.tables import answers
from tests.teacher_server.ledger.support import charge, computed, question
from tests.teacher_server.support import new_key, require_sound

DAY_S, PLENTY = 86_400.0, 2**40


def set_age(database: Database, idempotency_key: str, days: int) -> None:
    with database.writing() as connection:
        at = connection.execute(text("SELECT max(answered_at) FROM answers")).scalar_one()
        moved = f"{int(at[:4]) - 1}{at[4:]}" if days > 300 else at
        connection.execute(
            text("UPDATE answers SET answered_at = :at WHERE idempotency_key = :key"),
            {"at": moved, "key": idempotency_key},
        )


def stored(database: Database) -> list[str]:
    with database.reading() as connection:
        rows = connection.execute(select(answers).order_by(answers.c.sequence)).mappings()
        return [row["idempotency_key"] for row in rows if row["disclosed_npy"]]


def test_values_expire_by_age_and_the_record_stays(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    old = charge(ledger, key, "old", 2)
    charge(ledger, key, "new", 3)
    set_age(database, "old", 365)
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=PLENTY) == 1
    assert stored(database) == ["new"]
    found = ledger.find_answer(question(key, "old"))
    assert isinstance(found, Expired)
    assert (found.signed, found.request_id) == (old.signed, old.request_id)
    assert isinstance(ledger.find_answer(question(key, "new")), Answered)
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=PLENTY) == 0, "nothing is left to do"
    require_sound(database)


def test_an_expired_answer_is_never_charged_again(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    charge(ledger, key, "old", 2)
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=0) == 1
    again = ledger.charge(question(key, "old"), computed(2, value=0.5), request_id="another")
    assert isinstance(again, Expired)
    with pytest.raises(Refusal, match="other images"):
        ledger.charge(question(key, "old", about="other images"), computed(2), request_id="another")
    assert list_keys(database)[0].spent == 2
    require_sound(database)


def test_the_oldest_values_go_first_when_there_are_too_many_bytes(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    names = [f"k{number}" for number in range(6)]
    for name in names:
        charge(ledger, key, name, 4)
    with database.reading() as connection:
        (size,) = connection.execute(select(answers.c.body_bytes).distinct()).scalars()
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=3 * size + size // 2) == 3
    assert stored(database) == names[3:]
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=3 * size) == 0
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=0) == 3
    assert stored(database) == []


def test_many_expire_in_several_transactions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teacher_server.ledger.charging.answers._EXPIRED_AT_ONCE_MAX", 4)
    key, ledger = new_key(database), Ledger(database)
    for number in range(11):
        charge(ledger, key, f"k{number}", 1)
    database.share_commits()
    assert expire_bodies(database, kept_s=DAY_S, bytes_max=0) == 11
    assert stored(database) == []
