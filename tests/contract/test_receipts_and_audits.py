"""The server's receipts, exports and rewritings of history against the client's pins and audits."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from distill_client.audit import Audit, audit_run, read_export, read_log, receipt_lines
from distill_client.teachers.native.receipts import Pin, ProvenTeacher
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.paid.buying import buy_stage
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import read_receipt
from shared.wire.contracts import SigningKeys
from shared.wire.signatures import receipt_faults
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.audit.auditing import audit_export
from teacher_server.ledger.charging.answers import expire_bodies
from teacher_server.ledger.keys.issuing import grant_images
from teacher_server.ledger.lifecycle.backup import back_up
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key
from tests.contract.world import World, serving, some_images
from tests.distill_client.fakes import answer_to

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Buyer:
    """A run's store, pin and teacher, without the rest of a run."""

    store: PaidLabels
    teacher: NativeTeacher
    pin: Pin
    evidence: Path

    @property
    def proven(self) -> ProvenTeacher:
        trusted = self.pin.require_followed_by(self.teacher.signing_keys())
        return ProvenTeacher(self.teacher, self.pin, trusted, name="hash", evidence=self.evidence)

    def buy(self, stage: str, count: int, *, seed: int) -> None:
        if not self.store.has_stage(stage):
            self.store.record_stage(stage, some_images(count, seed=seed), images_per_request=8)
        teacher = self.proven
        card = teacher.card()
        buy_stage(self.store, teacher, stage, card=card, requests_in_flight=16, progress=lambda _: None)

    def audit(self, export: Path | None = None, keys: SigningKeys | None = None) -> Audit:
        log = read_log(self.teacher) if export is None else read_export(export)
        trusted = self.pin.trusted(keys or log.signing_keys)
        purchases, recorded = self.store.purchases(), self.store.recorded_keys()
        return audit_run(purchases, recorded, log, pin=self.pin, trusted=trusted)


@contextmanager
def buying(world: World, folder: Path, secret: str) -> Iterator[Buyer]:
    teacher = world.connect(secret)
    pin = Pin.at_first_use(teacher)
    assert pin is not None
    with closing(PaidLabels(folder / "answers.sqlite", run_id="run-1")) as store:
        yield Buyer(store, teacher, pin, folder / "evidence")


@pytest.fixture
def buyer(world: World, tmp_path: Path) -> Iterator[Buyer]:
    with buying(world, tmp_path, world.key()) as buyer:
        yield buyer


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2", "label"])
def test_every_answer_of_the_server_is_proved_by_its_receipt(world: World, tmp_path: Path, disclosure: str) -> None:
    with buying(world, tmp_path, world.key(disclosure=disclosure)) as buyer:
        buyer.buy("pool", 100, seed=1)
        audit = buyer.audit()
        assert audit.is_equal, audit.faults
        assert (audit.bought, audit.answers, audit.receipts) == (100, 13, 13)
        assert audit.pinned == buyer.pin.signing_key
        assert not buyer.evidence.exists()


def test_a_replay_brings_the_same_receipt(world: World, buyer: Buyer) -> None:
    first, again = (buyer.proven.label(some_images(5), "key-1") for _ in range(2))
    assert first.receipt == again.receipt
    trusted = buyer.pin.trusted(buyer.teacher.signing_keys())
    assert receipt_faults(read_receipt(first.receipt), trusted) == []
    assert receipt_faults(read_receipt(first.receipt), {})


def test_an_answer_computed_again_after_its_body_expired_is_accepted_and_counted(
    world: World, buyer: Buyer, tmp_path: Path
) -> None:
    buyer.buy("pool", 16, seed=1)
    assert expire_bodies(world.database, kept_s=-60, bytes_max=10**9) == 2
    with closing(PaidLabels(tmp_path / "again.sqlite", run_id="run-1")) as store:
        again = replace(buyer, store=store)
        again.buy("pool", 16, seed=1)
        audit = again.audit()
        assert audit.is_equal, audit.faults
        assert (audit.recomputed, audit.charged_by_server) == (2, 16)
        assert np.allclose(store.labelled("pool").values, answer_to(some_images(16, seed=1)), atol=1e-5)


def test_a_rotation_in_mid_run_is_followed_from_the_pinned_key(world: World, buyer: Buyer) -> None:
    asked = buyer.proven  # knows the first key only
    buyer.buy("pool", 20, seed=1)
    rotate_signing_key(world.database)
    asked.label(some_images(3, seed=9), "key-1")
    rotate_signing_key(world.database)
    buyer.buy("mixup", 20, seed=2)
    audit = buyer.audit()
    assert audit.is_equal, audit.faults
    assert audit.last_receipt is not None
    keys = buyer.teacher.signing_keys()
    assert keys is not None
    assert len(keys.keys) == 3
    assert (audit.pinned, audit.last_receipt.signing_key) == (keys.keys[0].fingerprint, keys.keys[2].fingerprint)


def test_the_owners_export_and_the_clients_receipts_agree_for_both_sides(
    world: World, buyer: Buyer, tmp_path: Path
) -> None:
    buyer.buy("pool", 30, seed=1)
    world.connect(world.key("other")).label(some_images(4), "key-1")
    rotate_signing_key(world.database)
    grant_images(world.database, name="ada", images=5)
    buyer.buy("mixup", 30, seed=2)
    export, receipts = tmp_path / "log.jsonl", tmp_path / "receipts.jsonl"
    with export.open("w") as stream:
        write_export(world.database, "ada", stream)
    audit = buyer.audit(export)
    assert audit.is_equal, audit.faults
    assert {**audit.as_json(), "sentence": ""} == {**buyer.audit().as_json(), "sentence": ""}
    receipts.write_text(receipt_lines(purchase.receipt_json or "" for purchase in buyer.store.purchases()))
    report = audit_export(export, pin=buyer.pin.signing_key, receipts=receipts)
    assert report.is_sound, report.faults
    alone: list[str | Path] = [
        sys.executable,
        PROJECT / "docs" / "verify_receipts.py",
        export,
        receipts,
        "--pin",
        buyer.pin.signing_key,
    ]
    verified = subprocess.run(alone, capture_output=True, text=True, timeout=60, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    receipts.write_text(receipts.read_text().replace('"images":8', '"images":9', 1))
    forged = subprocess.run(alone, capture_output=True, text=True, timeout=60, check=False)
    assert forged.returncode == 1, forged.stdout + forged.stderr


def edit(ledger: Path, statement: str) -> None:
    with closing(sqlite3.connect(ledger)) as connection, connection:
        assert connection.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE events SET images = 7 WHERE sequence = 3", ["event 3 was edited", "event 3 has a forged signature"]),
        ("UPDATE events SET signature = '' WHERE sequence = 3", ["event 3 is not signed"]),
        ("DELETE FROM events WHERE sequence = 3", ["event 4 follows event 2: one is missing", "is not in the log"]),
        ("DELETE FROM events WHERE sequence = 4", ["its tail is cut off", "which ends with event 3"]),
        ("UPDATE keys SET spent = 23", ["counter says 23 spent, its log adds up to 24"]),
        ("UPDATE keys SET granted = 999", ["counter says 999 granted, its log adds up to 1000"]),
        ("UPDATE events SET idempotency_key = 'x' WHERE sequence = 3", ["event 3 was edited", "is not in the log"]),
    ],
)
def test_what_an_owner_without_the_key_changes_in_the_database_is_named(
    world: World, buyer: Buyer, tmp_path: Path, statement: str, named: list[str]
) -> None:
    buyer.buy("pool", 24, seed=1)
    edit(tmp_path / "ledger.db", statement)
    audit = buyer.audit()
    assert not audit.is_equal
    for words in named:
        assert any(words in fault for fault in audit.faults), audit.faults


def test_a_restored_backup_is_found_by_the_receipts_for_what_it_lacks(tmp_path: Path) -> None:
    ledger, backup = tmp_path / "ledger.db", tmp_path / "backup.db"
    with serving(ledger) as world:
        secret = world.key()
        with buying(world, tmp_path, secret) as buyer:
            pin = buyer.pin
            buyer.buy("pool", 24, seed=1)
            back_up(world.database, backup)
            buyer.buy("mixup", 24, seed=2)
            assert buyer.audit().is_equal
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"ledger.db{suffix}").unlink(missing_ok=True)
    backup.rename(ledger)
    with serving(ledger) as world, buying(world, tmp_path, secret) as buyer:
        assert buyer.pin == pin, "the same ledger signs with the same key"
        world.connect(secret).label(some_images(1, seed=9), "somebody-else's")
        audit = buyer.audit()
        assert (audit.bought, audit.in_audit_log) == (48, 24)
        evidence = [difference for difference in audit.differences if difference.kind == "evidence"]
        assert len(evidence) == 3
        assert all("the ledger was restored from a backup at" in each.sentence for each in evidence)
        forked = [each for each in evidence if "has signed two different events" in each.sentence]
        assert forked, "the restore event stands where there was another"
