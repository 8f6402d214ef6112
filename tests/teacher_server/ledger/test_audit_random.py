# ruff: noqa: S608
"""Honest ledgers of any history are sound; any one cell that is edited is found, hashes made anew or not."""

import shutil
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from shared.wire.contracts import Event
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger import clock
from teacher_server.ledger.audit.auditing import audit_ledger
from teacher_server.ledger.charging.answers import expire_bodies
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.expiry import note_expired_keys
from teacher_server.ledger.keys.issuing import Key, grant_images, list_keys, revoke_key
from teacher_server.ledger.keys.key_rotation import rotate_secret
from teacher_server.ledger.keys.policies import change_policy
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key
from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import PostgreSQL
from tests.teacher_server.ledger.histories import write_history
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.ledger.tampering import execute, seal_anew
from tests.teacher_server.support import new_key

QUICK = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

# Not asked of an audit: ids, secrets, and what is told to nobody (request ids, the moment a stored answer is from).
CELLS = [
    *[("events", column) for column in (*Event.model_fields, "signing_key", "signature", "key_id")],
    *[("keys", column) for column in ("name", "spent", "granted", "disclosure", "revoked_at", "images_per_day")],
    *[("answers", column) for column in ("key_id", "idempotency_key", "teacher", "input_digest", "sequence")],
    *[("answers", column) for column in ("disclosed_npy", "body_bytes")],
    *[("event_images", column) for column in ("key_id", "sequence")],
]
NUMBERS = {"sequence", "images", "spent", "granted", "format", "key_id", "body_bytes", "images_per_day"}


@dataclass
class Template:
    """A ledger with a history, to be copied for every edit; on PostgreSQL, which copies slowly, there is but one."""

    place: LedgerPlace
    folder: Path

    def copy(self) -> LedgerPlace:
        if self.place.postgresql is not None:
            return self.place
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copy(self.place.url.removeprefix("sqlite:///"), folder / "ledger.db")
        return sqlite_place(folder)


@pytest.fixture
def template(place: LedgerPlace, tmp_path: Path) -> Template:
    write_history(place)
    return Template(place, tmp_path)


def values(column: str) -> st.SearchStrategy[object]:
    if column in NUMBERS:
        return st.integers(-2, 40) | st.sampled_from([2**31, 2**53])
    if column == "revoked_at":
        return st.sampled_from([None, "", "2026-01-02T03:04:05.000000+00:00"])
    if column == "disclosed_npy":
        return st.binary(max_size=40)
    hexadecimal = st.text("0123456789abcdef", min_size=64, max_size=64)
    return st.text("abz 0'", max_size=8) | hexadecimal | st.sampled_from(["answer", "grant", "label", "ada", "ada-2"])


@pytest.mark.parametrize("column", CELLS, ids=".".join)
def test_any_edit_of_any_cell_is_found(template: Template, column: tuple[str, str]) -> None:
    examples = 4 if template.place.postgresql is None else 1

    @settings(QUICK, max_examples=examples)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        edit_and_audit(template, column, data)

    run()


def edit_and_audit(template: Template, cell: tuple[str, str], data: st.DataObject) -> None:
    table, column = cell
    rows = execute(template.place, f"SELECT {column}, {'id' if table in ('events', 'keys') else 'sequence'}, "
                   f"{'id' if table == 'keys' else 'key_id'} FROM {table} ORDER BY 3, 2")  # fmt: skip
    before, number, key_id = data.draw(st.sampled_from(rows))
    value = data.draw(values(column))
    assume(value != before and (column != "revoked_at" or bool(value) != bool(before)))
    copy = template.copy()
    own = {"events": "id = ?", "keys": "id = ?"}.get(table, "sequence = ? AND key_id = ?")
    with_key = () if own == "id = ?" else (key_id,)
    try:
        execute(copy, f"UPDATE {table} SET {column} = ? WHERE {own}", parameters=(value, number, *with_key))
    except (psycopg.Error, sqlite3.Error):
        assume(False)  # the schema does not let it in
    if "hash" not in column and data.draw(st.booleans()):  # which would undo the edit of a hash
        seal_anew(copy, key_id)
    with copy.open() as database:
        assert audit_ledger(database).faults, (table, column, before, value)


STEPS = ["charge", "charge", "charge", "replay", "too much", "grant", "revoke", "sign anew", "limit", "secret",
         "clock back", "clock on", "expire", "note"]  # fmt: skip


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_honest_ledger_is_always_sound(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: PostgreSQL | None = request.getfixturevalue("postgresql") if kind == "postgresql" else None

    @settings(QUICK, max_examples=15 if server is None else 6)
    @given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(1, 6)), max_size=25))
    def run(steps: list[tuple[str, int, int]]) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        live(sqlite_place(folder) if server is None else postgresql_place(folder, server), steps, monkeypatch)

    run()


def live(place: LedgerPlace, steps: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the steps, each with a key and a number; audit at the end."""
    shift = timedelta()
    real = datetime.now
    monkeypatch.setattr(clock, "moment", lambda: real(UTC) + shift)
    with place.open(create=True) as database:
        keys = [new_key(database, name, budget=12) for name in ("ada", "bob", "cleo")]
        for number, (step, which, size) in enumerate(steps):
            key = keys[which]
            if step.startswith("clock"):
                shift += timedelta(hours=-size if step == "clock back" else size)
            with suppress(Refusal, OperatorError):
                take(step, database, key, number if step == "charge" else size, size)
        report = audit_ledger(database)
        assert report.faults == []
        assert {key.name: key.spent for key in list_keys(database)} == {
            walk.key_name: walk.spent for walk in report.walks
        }


def take(step: str, database: Database, key: Key, number: int, size: int) -> None:
    if step in ("charge", "replay"):
        charge(Ledger(database), key, f"{key.name}-{number}", size)
    elif step == "too much":
        charge(Ledger(database), key, f"{key.name}-much-{size}", 100)
    elif step == "grant":
        grant_images(database, name=key.name, images=size)
    elif step == "revoke":
        revoke_key(database, name=key.name)
    elif step == "sign anew":
        rotate_signing_key(database)
    elif step == "limit":
        expiry = clock.as_text(clock.moment() + timedelta(hours=size)) if size % 2 else None
        changes: dict[str, str | int | None] = {
            "images_per_day": size * 3,
            "expires_at": expiry,
            "disclosure": "label",
        }
        change_policy(database, name=key.name, changes=changes)
    elif step == "secret":
        rotate_secret(database, name=key.name, overlap=timedelta(hours=size))
    elif step == "expire":
        expire_bodies(database, kept_s=0.0001, bytes_max=0)
    elif step == "note":
        note_expired_keys(database)
