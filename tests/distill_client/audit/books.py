"""A run's books and the log of its teacher, to be manipulated."""

import numpy as np

from distill_client.audit import Audit, TeacherLog, audit_run
from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.paid.buying import buy_stage
from distill_client.teachers.paid.store import PaidLabels, Purchase
from distill_client.teachers.protocol import SignedEvent
from shared.wire.contracts import Event, EventSignature
from tests.distill_client.fakes import FakeTeacher, Signer


class Books:
    """What both sides hold after a run of 5 batches, with another run under the same key before and among them."""

    def __init__(self, store: PaidLabels, *, signs: bool = False) -> None:
        self.signer = Signer() if signs else None
        teacher = FakeTeacher(budget=500, signer=self.signer)
        self.pin = Pin.at_first_use(teacher)
        teacher.charge_other_run(11)
        images = np.random.default_rng(0).integers(0, 256, (18, 4, 4, 1), np.uint8)
        store.record_stage("pool", images[:8], images_per_request=4)
        store.record_stage("mixup", images[8:], images_per_request=4)
        for stage in ("pool", "mixup"):
            if signs and stage == "mixup":
                assert self.signer is not None
                self.signer.rotate()
            buy_stage(store, teacher, stage, card=teacher.card(), requests_in_flight=1, progress=lambda _: None)
            teacher.charge_other_run(5)
        teacher.append(kind="grant", images=7)
        self.purchases: list[Purchase] = store.purchases()
        self.keys = store.recorded_keys()
        self.events: list[Event] = list(teacher.events())
        self.signatures = dict(teacher.signatures)
        self.usage = teacher.usage()
        self.signing_keys = teacher.signing_keys()
        self.at = ""

    def audit(self) -> Audit:
        rows = [SignedEvent(event, self.signatures.get(event.hash, EventSignature())) for event in self.events]
        log = TeacherLog(tuple(rows), self.usage, self.signing_keys, at=self.at)
        trusted = self.pin.trusted(self.signing_keys) if self.pin is not None else None
        return audit_run(self.purchases, self.keys, log, pin=self.pin, trusted=trusted)

    def sign_again(self) -> None:
        """As an owner can who has the key and rewrites the log."""
        assert self.signer is not None
        self.signatures = {event.hash: self.signer.sign(event) for event in self.events}

    def ours(self) -> list[int]:
        """Where in the log this run's events stand."""
        return [index for index, event in enumerate(self.events) if event.idempotency_key in self.keys]

    def edit(self, index: int, **fields: object) -> None:
        self.events[index] = self.events[index].model_copy(update=fields)
