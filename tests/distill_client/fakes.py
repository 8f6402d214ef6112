"""A teacher made of a hash function: it answers, charges, keeps a chained log, and fails when it is told to."""

import base64
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from distill_client.config import RunConfig
from distill_client.errors import BudgetExhausted, TeacherUnavailable
from distill_client.material import Material
from distill_client.pipeline import run
from distill_client.run_folder import create_run, open_run
from distill_client.teachers.native.receipts import Pin
from distill_client.teachers.protocol import Answer, Capabilities, SignedEvent, Values, key_identity
from shared.wire.contracts import (
    Disclosure,
    Event,
    EventSignature,
    InputSpec,
    Receipt,
    Resize,
    SigningKey,
    SigningKeys,
    Usage,
)
from shared.wire.images import answer_digest, batch_digest, image_digests
from shared.wire.receipts import GENESIS_HASH, disclosure_digest, event_hash
from shared.wire.signatures import endorse, fingerprint, sign_event

AT = "2026-01-01T00:00:00.000000+00:00"


def answer_to(images_nhwc: NDArray[np.uint8], disclosure: str = "probabilities", classes: int = 10) -> Values:
    """What the fake teacher answers: a function of each image's bytes alone, rounded as on the wire."""
    digests = image_digests(images_nhwc)
    scores = np.array([np.frombuffer(digest[:classes], np.uint8) for digest in digests]).astype(np.float64) ** 4 + 1
    rounded = np.round(scores / scores.sum(axis=1, keepdims=True), 6)
    probabilities_nk: NDArray[np.float32] = rounded.astype(np.float32)
    parsed = Disclosure.parse(disclosure)
    if parsed.kind == "label":
        labels_n: NDArray[np.int64] = probabilities_nk.argmax(axis=1).astype(np.int64)
        return labels_n
    if parsed.kind == "top-k":
        hidden = np.argsort(-probabilities_nk, axis=1, kind="stable")[:, parsed.k :]
        np.put_along_axis(probabilities_nk, hidden, np.float32(np.nan), axis=1)
    return probabilities_nk


def as_header(receipt: Receipt) -> str:
    """A receipt as it travels."""
    return base64.urlsafe_b64encode(receipt.model_dump_json().encode()).decode().rstrip("=")


class Signer:
    """A ledger's signing keys, of which the last signs."""

    def __init__(self) -> None:
        self.private = [Ed25519PrivateKey.generate()]
        self.keys = [self._public()]

    def _public(self, **fields: str) -> SigningKey:
        public = self.private[-1].public_key()
        raw = public.public_bytes_raw().hex()
        return SigningKey(fingerprint=fingerprint(public), public_key=raw, created_at=AT, **fields)

    @property
    def current(self) -> str:
        return self.keys[-1].fingerprint

    def rotate(self) -> None:
        """The next key, endorsed by the one before."""
        old = self.private[-1]
        self.private.append(Ed25519PrivateKey.generate())
        endorsement = endorse(old, self.private[-1].public_key())
        endorsed = self._public(endorsed_by=self.keys[-1].fingerprint, endorsement=endorsement)
        self.keys = [*(key.model_copy(update={"retired_at": AT}) for key in self.keys), endorsed]

    def sign(self, event: Event) -> EventSignature:
        return EventSignature(signing_key=self.current, signature=sign_event(self.private[-1], event))

    def receipt(self, event: Event) -> Receipt:
        return Receipt(event=event, signing_key=self.current, signature=self.sign(event).signature)


def relinked(events: list[Event]) -> list[Event]:
    """The same contents, numbered and hashed anew: what a teacher does who rewrites its whole log."""
    chain: list[Event] = []
    for event in events:
        previous_hash = chain[-1].hash if chain else GENESIS_HASH
        draft = event.model_copy(update={"sequence": len(chain) + 1, "previous_hash": previous_hash})
        chain.append(draft.model_copy(update={"hash": event_hash(draft)}))
    return chain


@dataclass
class FakeTeacher:
    """Satisfies ``distill_client.teachers.protocol.Teacher``; charges once per idempotency key.

    ``fails_before`` and ``fails_after`` name calls, counted from 1, that are lost before or after they are charged;
    ``misanswers`` those whose answer has one row too few. An image whose digest begins with a byte below
    ``rejects_below`` is charged and answered with nothing, as where a label map rejects what was said.
    ``hold`` makes every call wait until it is set.
    """

    budget: int = 100_000
    disclosure: str = "probabilities"
    version: str = "1"
    image_hwc: tuple[int, int, int] = (28, 28, 1)
    class_names: tuple[str, ...] = tuple("0123456789")
    resize: Resize = "stretch"
    images_per_request_max: int = 1024
    fails_before: set[int] = field(default_factory=set)
    fails_after: set[int] = field(default_factory=set)
    misanswers: set[int] = field(default_factory=set)
    rejects_below: int = 0
    is_unavailable: bool = False
    hold: threading.Event | None = None
    signer: Signer | None = None

    asked: list[tuple[str, str]] = field(default_factory=list)  # (idempotency key, batch digest) of every call
    images_seen: list[bytes] = field(default_factory=list)  # digests of all images of all calls
    calls: int = 0
    in_flight: int = 0
    in_flight_most: int = 0
    log: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, tuple[str, Values, Event]] = {}
        self.signatures: dict[str, EventSignature] = {}  # by the event's hash
        self.append(kind="create", images=self.budget)

    @property
    def spent(self) -> int:
        return sum(event.images for event in self.log if event.kind == "answer")

    @property
    def granted(self) -> int:
        return sum(event.images for event in self.log if event.kind in ("create", "grant"))

    def append(self, *, kind: str, images: int, **fields: str) -> Event:
        """Add an event to the log."""
        spent = self.spent + (images if kind == "answer" else 0)
        granted = self.granted + (images if kind in ("create", "grant") else 0)
        is_answer = kind == "answer"
        content: dict[str, object] = {
            "kind": kind,
            "at": AT,
            "key_name": "ada",
            "teacher": "fake" if is_answer else "",
            "version": self.version if is_answer else "",
            "images": images,
            "input_digest": "0" * 64,
            "answer_digest": "0" * 64,
            "disclosure": self.disclosure,
            "idempotency_key": "",
            "spent": spent,
            "granted": granted,
            "sequence": len(self.log) + 1,
            "previous_hash": self.log[-1].hash if self.log else GENESIS_HASH,
            "hash": "0" * 64,
        }
        if self.signer is not None:
            content |= {"format": 2, "disclosure_digest": disclosure_digest(self.disclosure)}
        draft = Event.model_validate(content | fields)
        event = draft.model_copy(update={"hash": event_hash(draft)})
        if self.signer is not None:
            self.signatures[event.hash] = self.signer.sign(event)
        self.log.append(event)
        return event

    def charge_other_run(self, images: int) -> Event:
        """Someone else with the same key buys something."""
        return self.append(kind="answer", images=images, idempotency_key=f"another-run-{len(self.log)}")

    def card(self) -> Capabilities:
        height, width, channels = self.image_hwc
        return Capabilities(
            name="fake",
            version=self.version,
            classes=list(self.class_names),
            input=InputSpec.model_validate(
                {"height": height, "width": width, "channels": channels, "resize": self.resize}
            ),
            preprocessing="none",
            images_per_request_max=self.images_per_request_max,
            body_bytes_max=2**25,
            test_accuracy=0.75,
            test_dataset="digits",
            disclosure=self.disclosure,
            budget=self.usage(),
        )

    def usage(self) -> Usage:
        return Usage(granted=self.granted, spent=self.spent, remaining=self.granted - self.spent)

    def events(self) -> Iterator[Event]:
        yield from list(self.log)

    def signed_events(self) -> Iterator[SignedEvent]:
        for event in self.events():
            yield SignedEvent(event, self.signatures.get(event.hash, EventSignature()))

    def signing_keys(self) -> SigningKeys | None:
        return SigningKeys(ledger="fake", keys=self.signer.keys) if self.signer is not None else None

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        with self._lock:
            self.calls += 1
            call = self.calls
            self.in_flight += 1
            self.in_flight_most = max(self.in_flight_most, self.in_flight)
        try:
            if self.hold is not None:
                assert self.hold.wait(20)
            with self._lock:
                return self._answer(call, images_nhwc, idempotency_key)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _answer(self, call: int, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        digests = image_digests(images_nhwc)
        input_digest = batch_digest(digests)
        self.asked.append((idempotency_key, input_digest))
        self.images_seen += digests
        if self.is_unavailable or call in self.fails_before:
            raise TeacherUnavailable(f"call {call} is lost before it is charged")
        if idempotency_key not in self._answers:
            values = answer_to(images_nhwc, self.disclosure, len(self.class_names))
            values[[digest[0] < self.rejects_below for digest in digests]] = -1 if values.ndim == 1 else np.nan
            if self.spent + len(images_nhwc) > self.granted:
                raise BudgetExhausted("the budget is exhausted", granted=self.granted, spent=self.spent)
            event = self.append(
                kind="answer",
                images=len(images_nhwc),
                input_digest=input_digest,
                answer_digest=answer_digest(values),
                idempotency_key=idempotency_key,
            )
            self._answers[idempotency_key] = (input_digest, values, event)
        charged_for, values, event = self._answers[idempotency_key]
        assert charged_for == input_digest, "one idempotency key, two batches"
        if call in self.fails_after:
            raise TeacherUnavailable(f"call {call} is lost after it was charged")
        return Answer(
            values=values[:-1] if call in self.misanswers else values,
            version=event.version,
            disclosure=event.disclosure,
            charged=event.images,
            spent=event.spent,
            remaining=event.granted - event.spent,
            event_sequence=event.sequence,
            event_hash=event.hash,
            receipt=self._receipt(event),
        )

    def _receipt(self, event: Event) -> str:
        if not (signature := self.signatures.get(event.hash)):
            return ""
        return as_header(Receipt(event=event, **signature.model_dump()))


class SilentReporter:
    """Satisfies ``pipeline.Reporter``; remembers what it heard, and may stop the run at a training's first report."""

    def __init__(self, *, interrupt: str = "") -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.charged: list[int] = []
        self.trainings: list[str] = []
        self.learnt_by: list[str] = []
        self.measurements: list[str] = []
        self.looked_at: dict[str, tuple[int, int]] = {}  # of how many candidates, by stage
        self.warnings: list[str] = []
        self._interrupt = interrupt

    def buying(self, stage: str, images: int, bought: int) -> "HearAnswer":
        self.stages.append((stage, images, bought))
        return HearAnswer(self.charged)

    def choosing(self, stage: str, candidates: int) -> Callable[[int], None]:
        return lambda looked_at: self.looked_at.update({stage: (looked_at, candidates)})

    def measured(self, told: str) -> None:
        self.measurements.append(told)

    def warning(self, told: str) -> None:
        self.warnings.append(told)

    def learning(self, how: str) -> None:
        self.learnt_by.append(how)

    def training(self, what: str) -> "HearTraining":
        self.trainings.append(what)
        return HearTraining(is_interrupted=what == self._interrupt)


class HearAnswer:
    def __init__(self, charged: list[int]) -> None:
        self._charged = charged

    def __call__(self, answer: Answer) -> None:
        self._charged.append(answer.charged)


class HearTraining:
    def __init__(self, *, is_interrupted: bool) -> None:
        self._is_interrupted = is_interrupted

    def __call__(self, step: int, steps: int, loss: float) -> None:
        if self._is_interrupted and step > steps // 2:
            raise Interrupted


class Interrupted(BaseException):
    """Stands for a kill: nothing may catch it."""


def tiny_config(**changes: dict[str, object] | object) -> RunConfig:
    """40 digits, 60 synthetic images, 20 steps; ``changes`` replace or, for sections, are merged in."""
    content: dict[str, object] = {
        "name": "tiny",
        "seed": 1,
        "budget_images": 100,
        "teacher": {"name": "fake", "images_per_request": 16, "requests_in_flight": 2},
        "pool": {"dataset": "digits", "images": 40},
        "synthesis": {"images": 60, "cvae": {"epochs": 2}},
        "student": {"network": "lenet5-half"},
        "training": {"steps": 20, "batch_size": 32},
        "evaluation": {"dataset": "digits", "held_out_fraction": 0.1},
    }
    for name, value in changes.items():
        section = content.get(name)
        content[name] = {**section, **value} if isinstance(section, dict) and isinstance(value, dict) else value
    return RunConfig.model_validate(content)


def begin(path: Path, config: RunConfig, teacher: FakeTeacher, *, keep: Callable[[Path], None] | None = None) -> None:
    """Make the run folder, as `distill run` does before it buys anything."""
    create_run(
        path,
        config,
        teacher.card(),
        teacher_url="http://teacher.test",
        key_identity=key_identity(teacher),
        pin=Pin.at_first_use(teacher),
        keep=keep,
    )


def bring_to_its_end(
    path: Path, teacher: FakeTeacher, reporter: SilentReporter | None = None, *, material: Material | None = None
) -> dict[str, Any]:
    """Open the run folder and run or resume it, as a new process would."""
    with open_run(path, mends=True) as folder:
        prepared = material or Material(folder.config)
        return run(folder, prepared, teacher, reporter or SilentReporter(), torch.device("cpu"))
