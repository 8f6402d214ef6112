# ruff: noqa: S608
"""Whatever is done to a ledger by somebody without its signing key is found, and named with its key and event."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.wire.contracts import SigningKey
from shared.wire.signatures import fingerprint
from teacher_server.ledger.audit.auditing import AuditReport, audit_ledger
from teacher_server.ledger.chain.signing import ensure_signing_key, list_signing_keys
from tests.ledger_places import LedgerPlace, sqlite_place
from tests.teacher_server.ledger.histories import ADA, BOB, LAST, write_history
from tests.teacher_server.ledger.tampering import execute, seal_anew

INSERTED = (
    "INSERT INTO events (key_id, sequence, previous_hash, kind, at, key_name, teacher, version, images, "
    "input_digest, answer_digest, disclosure, idempotency_key, spent, granted, hash, format, detail) SELECT "
    "key_id, 10, hash, 'grant', at, key_name, '', '', 50, '', '', disclosure, '', spent, granted + 50, hash, {}, '' "
    "FROM events WHERE key_id = 1 AND sequence = 9"
)
# What is done, in SQL; the event it is found at (None: no single one) and words of the sentence.
FOUND: dict[str, tuple[list[str], int | None, str]] = {
    "an edited event": (["UPDATE events SET teacher = 'other' WHERE key_id = 1 AND sequence = 3"], 3, "was edited"),
    "an edited detail": (["UPDATE events SET detail = 'x' WHERE key_id = 1 AND sequence = 7"], 7, "was edited"),
    "a deleted event": (
        ["DELETE FROM events WHERE key_id = 1 AND sequence = 3"], 4, "event 3 is missing before it"),
    "two deleted events": (
        ["DELETE FROM events WHERE key_id = 1 AND sequence IN (3, 4)"], 5, "events 3 to 4 are missing"),
    "the first event deleted": (
        ["DELETE FROM events WHERE key_id = 1 AND sequence = 1"], 2, "event 1 is missing before it"),
    "a truncated tail": (["DELETE FROM events WHERE key_id = 1 AND sequence > 7"], None, "counter says 20 spent"),
    "a truncated tail with its counters": (
        ["DELETE FROM events WHERE key_id = 1 AND sequence > 7", "UPDATE keys SET spent = 10 WHERE id = 1"],
        8, "answers has a row for it, but no such charge"),
    "two events exchanged": (
        ["UPDATE events SET sequence = -3 WHERE key_id = 1 AND sequence = 3",
         "UPDATE events SET sequence = 3 WHERE key_id = 1 AND sequence = 4",
         "UPDATE events SET sequence = 4 WHERE key_id = 1 AND sequence = -3"], 3, "was edited"),
    "an inserted event": (
        [INSERTED.format(2), "UPDATE keys SET granted = 80 WHERE id = 1"],
        10, "its signature is missing"),
    "an inserted event of the old format": (
        [INSERTED.format(1), "UPDATE keys SET granted = 80 WHERE id = 1"],
        10, "is not signed (format 1), but events before it are"),
    "an event of another key": (
        ["DELETE FROM events WHERE key_id = 1 AND sequence = 2",
         "UPDATE events SET key_id = 1 WHERE key_id = 2 AND sequence = 2"], 2, "names key bob"),
    "a missing signature": (
        ["UPDATE events SET signature = '' WHERE key_id = 1 AND sequence = 4"], 4, "signature is missing"),
    "a forged signature": (
        ["UPDATE events SET signature = 'ab' || substr(signature, 3, 124) || '00' "
         "WHERE key_id = 1 AND sequence = 4"], 4, "forged"),
    "a signature that is none": (
        ["UPDATE events SET signature = upper(signature) WHERE key_id = 1 AND sequence = 4"], 4, "cannot be read"),
    "a signature of another event": (
        ["UPDATE events SET signature = (SELECT e.signature FROM events e WHERE e.key_id = 1 AND e.sequence = 5) "
         "WHERE key_id = 1 AND sequence = 4"], 4, "forged"),
    "a signing key that is not there": (
        [f"UPDATE events SET signing_key = '{'a' * 64}' WHERE key_id = 1 AND sequence = 4"], 4, "no key of this"),
    "less spent": (["UPDATE keys SET spent = 1 WHERE id = 1"], None, "counter says 1 spent, the events add up to 20"),
    "more granted": (
        ["UPDATE keys SET granted = 1000 WHERE id = 1"], None, "counter says 1000 granted, the events add up to 30"),
    "a wrong running sum": (
        ["UPDATE events SET spent = spent - 1 WHERE key_id = 1 AND sequence = 3"], 3, "the log adds up to"),
    "more images in an event": (
        ["UPDATE events SET images = 2 WHERE key_id = 1 AND sequence = 3"], 3, "the log adds up to"),
    "another disclosure for the key": (
        ["UPDATE keys SET disclosure = 'label' WHERE id = 1"], None, "its row says disclosure label"),
    "a limit lifted": (["UPDATE keys SET images_per_day = 7 WHERE id = 1"], None, "images_per_day 7"),
    "a revocation undone": (["UPDATE keys SET revoked_at = NULL WHERE id = 2"], None, "whether it was revoked"),
    "a key renamed": (["UPDATE keys SET name = 'eve' WHERE id = 1"], 1, "names key ada"),
    "an answer without its row": (
        ["DELETE FROM answers WHERE key_id = 1 AND sequence = 4"], 4, "the row of its answer (ada-2) is missing"),
    "a row without its answer": (
        ["INSERT INTO answers (key_id, idempotency_key, teacher, input_digest, request_id, sequence, disclosed_npy, "
         "answered_at, body_bytes) SELECT key_id, 'free', teacher, input_digest, 'r', 77, disclosed_npy, "
         "answered_at, body_bytes FROM answers WHERE key_id = 1 AND sequence = 4"], 77, "answers has a row for it"),
    "a row that points elsewhere": (
        ["UPDATE answers SET sequence = 3 WHERE key_id = 1 AND sequence = 4"], 4, "says sequence 3"),
    "a row of other images": (
        ["UPDATE answers SET input_digest = 'x' WHERE key_id = 1 AND sequence = 4"], 4, "says input_digest x"),
    "another stored answer": (
        ["UPDATE answers SET disclosed_npy = (SELECT a.disclosed_npy FROM answers a WHERE a.key_id = 1 AND "
         "a.sequence = 2), body_bytes = (SELECT a.body_bytes FROM answers a WHERE a.key_id = 1 AND a.sequence = 2) "
         "WHERE key_id = 1 AND sequence = 4"], 4, "the stored answer was edited"),
    "a stored answer emptied halfway": (
        ["UPDATE answers SET body_bytes = 0 WHERE key_id = 1 AND sequence = 4"], 4, "its row says 0"),
    "fingerprints missing": (
        ["DELETE FROM event_images WHERE key_id = 1 AND sequence = 4"], 4, "images are missing in event_images"),
    "fingerprints of no event": (
        ["INSERT INTO event_images (key_id, sequence, fingerprints) SELECT key_id, 77, fingerprints "
         "FROM event_images WHERE key_id = 1 AND sequence = 4"], 77, "event_images has a row for it"),
    "a key without a chain": (["DELETE FROM events WHERE key_id = 2"], None, "has no events"),
    "an event from the future": (
        ["UPDATE events SET at = '2999-01-01T00:00:00.000000+00:00' WHERE key_id = 1 AND sequence = 4"],
        5, "time goes backwards"),
    "a kind that is none": (
        ["UPDATE events SET kind = 'gift' WHERE key_id = 1 AND sequence = 4"], 4, "cannot be read: kind is gift"),
    "a key retired before it signed": (
        ["UPDATE signing_keys SET retired_at = '2020-01-01T00:00:00.000000+00:00' WHERE retired_at IS NOT NULL"],
        1, "which was retired at 2020-01-01"),
    "a signing key that nobody endorsed": (
        [f"UPDATE signing_keys SET endorsement = '{'0' * 128}' WHERE retired_at IS NULL"], 8, "no key of this"),
}  # fmt: skip


def audit(place: LedgerPlace, **options: object) -> AuditReport:
    with place.open() as database:
        return audit_ledger(database, **options)  # type: ignore[arg-type]


def require_found(report: AuditReport, key_name: str, sequence: int | None, words: str) -> None:
    found = [fault for fault in report.faults if fault.sequence == sequence and words in fault.what]
    assert found, "\n".join(map(str, report.faults))
    assert key_name in {fault.key_name for fault in found}


def test_an_honest_ledger_is_sound(place: LedgerPlace) -> None:
    write_history(place)
    report = audit(place)
    assert report.faults == []
    assert report.notes == []
    assert [(walk.key_name, walk.events, walk.spent, walk.granted) for walk in report.walks] == [
        ("ada", LAST, 20, 30),
        ("bob", 3, 5, 5),
    ]
    assert [walk.key_name for walk in audit(place, key_name="bob").walks] == ["bob"]
    assert "no such key" in str(audit(place, key_name="eve").faults[0])


@pytest.mark.parametrize("manipulation", FOUND)
def test_a_manipulation_is_found_and_named(place: LedgerPlace, manipulation: str) -> None:
    statements, sequence, words = FOUND[manipulation]
    write_history(place)
    if place.postgresql is not None and "of another key" in manipulation:
        statements = ["ALTER TABLE events DROP CONSTRAINT one_event_per_sequence", *statements]
    execute(place, *statements)
    key_name = {"a key renamed": "eve", "a revocation undone": "bob", "a key without a chain": "bob"}
    require_found(audit(place), key_name.get(manipulation, "ada"), sequence, words)


@pytest.mark.parametrize("manipulation", [name for name in FOUND if "UPDATE events" in FOUND[name][0][0]])
def test_hashes_made_anew_do_not_hide_it(place: LedgerPlace, manipulation: str) -> None:
    write_history(place)
    execute(place, *FOUND[manipulation][0])
    seal_anew(place, ADA)
    report = audit(place)
    unreadable = FOUND[manipulation][2].startswith("cannot be read")
    assert any("its content does not have its hash" in fault.what for fault in report.faults) <= unreadable
    assert {fault.key_name for fault in report.faults} == {"ada"}


def test_a_repeated_event_is_found_where_the_schema_lets_it_in(place: LedgerPlace) -> None:
    write_history(place)
    names = (
        "key_id, sequence, previous_hash, kind, at, key_name, teacher, version, images, input_digest, answer_digest, "
        "disclosure, idempotency_key, spent, granted, hash, format, teacher_digest, disclosure_digest, detail, "
        "signing_key, signature"
    )
    copy = f"INSERT INTO events ({names}) SELECT {names} FROM {{}} WHERE key_id = 1 AND sequence = 4"
    if place.postgresql is None:
        execute(
            place,
            "CREATE TABLE copied AS SELECT * FROM events",
            "DROP TABLE events",
            "ALTER TABLE copied RENAME TO events",
            copy.format("events"),
        )
    else:
        execute(place, "ALTER TABLE events DROP CONSTRAINT one_event_per_sequence", copy.format("events"))
    require_found(audit(place), "ada", 4, "is there twice")


def test_signing_keys_that_nobody_endorsed_are_named(place: LedgerPlace) -> None:
    write_history(place)
    row = (
        "INSERT INTO signing_keys (fingerprint, public_key, created_at, retired_at, endorsed_by, endorsement) VALUES "
    )
    key = fresh_key()
    execute(place, row + f"('{key.fingerprint}', '{key.public_key}', '2030', '2031', '', '')")
    report = audit(place)
    assert [str(fault) for fault in report.faults] == [
        f"the ledger: signing key {key.fingerprint}: nobody endorsed it"
    ]
    execute(place, "UPDATE signing_keys SET fingerprint = ? WHERE created_at = '2030'", parameters=("a" * 64,))
    assert "is not the fingerprint of its public key" in str(audit(place).faults[0])


def fresh_key() -> SigningKey:
    public = Ed25519PrivateKey.generate().public_key()
    return SigningKey(fingerprint=fingerprint(public), public_key=public.public_bytes_raw().hex(), created_at="2030")


def test_a_forger_with_a_key_of_his_own_is_found_by_the_pin(place: LedgerPlace, tmp_path: Path) -> None:
    """He rewrites everything consistently, signed by his key: only who pinned the true one can tell."""
    write_history(place)
    with place.open() as database, database.reading() as connection:
        first = list_signing_keys(connection)[0].fingerprint
    assert audit(place, pin=first).is_sound
    execute(
        place, *[f"DELETE FROM {table}" for table in ("event_images", "answers", "events", "keys", "signing_keys")]
    )
    place.signing_key.unlink()
    with place.open() as database, database.writing() as connection:
        ensure_signing_key(connection, database.signer)
    write_history(place)
    assert audit(place).is_sound
    assert str(audit(place, pin=first).faults[0]) == f"the ledger: the pinned key {first} is none of this ledger's"


def test_a_key_pinned_after_a_rotation_vouches_for_what_came_before_it(place: LedgerPlace) -> None:
    write_history(place)
    with place.open() as database, database.reading() as connection:
        second = list_signing_keys(connection)[1].fingerprint
    report = audit(place, pin=second)
    assert report.is_sound
    assert report.notes == []  # both chains have an event by it at their end
    execute(place, f"DELETE FROM events WHERE key_id = {BOB} AND sequence = 3", "UPDATE keys SET revoked_at = NULL")
    report = audit(place, pin=second)
    assert report.is_sound
    assert report.notes == [
        "key bob: its last 2 signed events are by keys before the pinned one, which does not vouch for them"
    ]


@pytest.mark.parametrize("cell", ["x'ff'", "'12x'", "2.5", "x'00ff'", "CAST(x'ff41' AS TEXT)", "9223372036854775807"])
@pytest.mark.parametrize("column", ["sequence", "images", "hash", "kind", "at", "format", "signature", "key_name"])
def test_cells_that_hold_anything_are_faults_and_no_crash(tmp_path: Path, column: str, cell: str) -> None:
    """SQLite keeps whatever is put into a cell."""
    place = sqlite_place(tmp_path)
    write_history(place)
    execute(place, f"UPDATE events SET {column} = {cell} WHERE key_id = 1 AND sequence = 3")
    report = audit(place)
    assert report.faults
    assert {fault.key_name for fault in report.faults} == {"ada"}


@pytest.mark.parametrize("table", ["answers", "event_images", "keys", "signing_keys"])
def test_other_tables_cells_that_hold_anything(tmp_path: Path, table: str) -> None:

    for column in {"answers": ["teacher", "disclosed_npy", "sequence", "body_bytes", "idempotency_key"],
                   "event_images": ["sequence", "fingerprints"], "keys": ["name", "spent", "granted", "disclosure"],
                   "signing_keys": ["public_key", "created_at", "endorsement"]}[table]:  # fmt: skip
        folder = tmp_path / column
        folder.mkdir()
        place = sqlite_place(folder)
        write_history(place)
        cell = "x''" if column == "fingerprints" else "CAST(x'ff41' AS TEXT)"
        execute(place, f"UPDATE {table} SET {column} = {cell} WHERE rowid = 1")
        assert audit(place).faults, column


def test_rows_of_no_key_are_named(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    write_history(place)
    execute(place, "DELETE FROM keys WHERE id = 2")
    assert "the ledger: events has rows of key 2, which does not exist" in map(str, audit(place).faults)


def test_a_ledger_without_its_name(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    write_history(place)
    execute(place, "DELETE FROM ledger")
    assert "the ledger: its table 'ledger', with its name, has 0 rows; allowed is one" in map(
        str, audit(place).faults
    )


def test_a_ledger_is_not_changed_by_its_audit(tmp_path: Path) -> None:
    place = sqlite_place(tmp_path)
    write_history(place)
    dump = dumped(tmp_path / "ledger.db")
    place.signing_key.unlink()  # which an audit does not need
    audit(place)
    assert dumped(tmp_path / "ledger.db") == dump


def dumped(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return json.dumps(list(connection.iterdump()))
