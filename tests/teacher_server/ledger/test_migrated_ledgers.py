"""A ledger that the first version wrote (its dump is committed): brought to this one, it signs from then on."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from shared.wire.contracts import Event
from shared.wire.receipts import GENESIS_HASH, event_hash
from teacher_server.errors import OperatorError
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.audit.auditing import audit_export, audit_ledger
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import migrate, open_database
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key
from tests.ledger_places import LedgerPlace, sqlite_place
from tests.teacher_server.ledger.golden_history import GOLDEN
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.ledger.tampering import execute, seal_anew
from tests.teacher_server.ledger.test_audit_files import stand_alone
from tests.teacher_server.support import history

NEW_FIELDS = {"format", "teacher_digest", "disclosure_digest", "detail"}


@pytest.fixture
def old(tmp_path: Path) -> LedgerPlace:
    place = sqlite_place(tmp_path)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.executescript((GOLDEN / "ledger-0001.sql").read_text())
    return place


def test_an_old_ledger_is_not_opened_but_told_the_way(old: LedgerPlace) -> None:
    for create in (False, True):
        with pytest.raises(OperatorError, match=r"schema 0001.*teacher ledger migrate"):
            open_database(old.url, create=create)
    assert not old.signing_key.exists()


def test_old_events_stay_valid_and_new_ones_are_signed(old: LedgerPlace, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("teacher")), "ledger", "migrate", "--ledger", old.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert old.signing_key.stat().st_mode & 0o777 == 0o600
    with old.open() as database:
        report = audit_ledger(database)
        assert report.faults == []
        assert report.notes == [
            "key ada: 5 events of format 1, from before the ledger signed",
            "key bob: 3 events of format 1, from before the ledger signed",
        ]
        ada = list_keys(database)[0]
        replayed = charge(Ledger(database), ada, "old-1", 1)
        assert (replayed.is_replay, replayed.signed.receipt) == (True, None)
        new = charge(Ledger(database), ada, "new-0", 4)
        assert new.signed.receipt is not None
        assert [event.format for event in history(database, ada)] == [1, 1, 1, 1, 1, 2]
        assert new.event.spent == 10
        assert audit_ledger(database).faults == []
        with (tmp_path / "history.jsonl").open("w") as stream:
            write_export(database, "ada", stream)
    assert audit_export(tmp_path / "history.jsonl").faults == []
    done = stand_alone(tmp_path / "history.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "sound")


def test_a_signed_event_vouches_for_the_old_ones_before_it(old: LedgerPlace) -> None:
    migrate(old.url)
    with old.open() as database:
        charge(Ledger(database), list_keys(database)[0], "new-0", 4)
    execute(old, "UPDATE events SET version = '7' WHERE key_id = 1 AND sequence = 2")
    seal_anew(old, 1)
    with old.open() as database:
        faults = audit_ledger(database).faults
    assert [(fault.sequence, "forged" in fault.what) for fault in faults] == [(6, True)]


def test_unsigned_events_cannot_be_made_up_later(old: LedgerPlace) -> None:
    migrate(old.url)
    execute(old, "INSERT INTO events (key_id, sequence, previous_hash, kind, at, key_name, teacher, version, images, "
            "input_digest, answer_digest, disclosure, idempotency_key, spent, granted, hash) SELECT key_id, 6, hash, "
            "'grant', '2999-01-01T00:00:00.000000+00:00', key_name, '', '', 70, '', '', disclosure, '', spent, "
            "granted + 70, hash FROM events WHERE key_id = 1 AND sequence = 5",
            "UPDATE keys SET granted = 100 WHERE id = 1")  # fmt: skip
    seal_anew(old, 1)
    with old.open() as database:
        faults = audit_ledger(database).faults
    assert [fault.sequence for fault in faults] == [6]
    assert "is not signed (format 1), but the ledger signs since" in faults[0].what


def test_a_clock_that_was_ahead_before_the_migration_is_no_fault(old: LedgerPlace) -> None:
    """Format 1 knew no order of times."""
    ahead = "2999-01-01T00:00:00.000000+00:00"
    with closing(sqlite3.connect(old.url.removeprefix("sqlite:///"))) as connection, connection:
        names = [name for name in Event.model_fields if name not in NEW_FIELDS]
        connection.execute("UPDATE events SET at = ? WHERE key_id = 1 AND sequence = 3", (ahead,))
        previous = GENESIS_HASH
        for row in connection.execute(
            f"SELECT id, {', '.join(names)} FROM events WHERE key_id = 1 ORDER BY sequence"  # noqa: S608
        ).fetchall():
            event = Event.model_validate(dict(zip(names, row[1:], strict=True)) | {"previous_hash": previous})
            own = event_hash(event)
            connection.execute("UPDATE events SET previous_hash = ?, hash = ? WHERE id = ?", (previous, own, row[0]))
            previous = own
    migrate(old.url)
    with old.open() as database:
        assert audit_ledger(database).faults == []
        charge(Ledger(database), list_keys(database)[0], "new-0", 1)
        rotate_signing_key(database)
        charge(Ledger(database), list_keys(database)[0], "new-1", 1)
        assert audit_ledger(database).faults == []
