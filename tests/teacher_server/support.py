"""A teacher small enough to see through: 8 x 8 images that carry a number, and probabilities that give it back."""

import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from starlette.testclient import TestClient

from shared.wire.contracts import Disclosure, Event, InputSpec, LabelsAnswer
from shared.wire.images import NPY_MEDIA_TYPE, Images, encode_npy
from shared.wire.receipts import chain_faults
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.authentication import authenticate
from teacher_server.ledger.keys.issuing import Key, create_key, list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.teacher import Teacher

NUMBERS_MAX = 65535
CLASSES = ("zero", "one", "two")
LABELS = "/v1/teachers/numbers/labels"
PROBABILITIES = Disclosure("probabilities")


def numbered_images(numbers: Iterable[int]) -> Images:
    """One 8 x 8 x 1 image per number, which stands in its first two pixels."""
    wanted = np.fromiter(numbers, np.int64)
    images_nhwc = np.zeros((len(wanted), 8, 8, 1), np.uint8)
    images_nhwc[:, 0, 0, 0] = wanted // 256
    images_nhwc[:, 0, 1, 0] = wanted % 256
    return images_nhwc


def numbers_of(probabilities_nk: Sequence[Sequence[float]] | NDArray[np.float32]) -> list[int]:
    """The numbers of the images that these rows answer."""
    return [round(row[0] * 100_000) for row in np.asarray(probabilities_nk, np.float64).tolist()]


@dataclass
class NumbersClassifier:
    """p(zero) is the image's number / 100,000; may be told to wait, or to fail."""

    classes: int = len(CLASSES)
    calls: int = 0
    fault: Exception | None = None
    may_go_on: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.may_go_on.set()

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls += 1
        self.waiting.release()
        assert self.may_go_on.wait(timeout=60)
        if self.fault:
            raise self.fault
        numbers = images_nhwc[:, 0, 0, 0].astype(np.float64) * 256 + images_nhwc[:, 0, 1, 0]
        zero = numbers / 100_000
        one = (1 - zero) / 3
        return np.stack([zero, one, 1 - zero - one], axis=1).astype(np.float32)


def numbers_teacher(classifier: NumbersClassifier, *, name: str = "numbers", version: str = "1") -> Teacher:
    return Teacher(
        name=name,
        version=version,
        class_names=CLASSES,
        input=InputSpec(height=8, width=8, channels=1),
        classifier=classifier,
        test_accuracy=0.75,
        test_dataset="numbers",
    )


@dataclass(frozen=True)
class Holder:
    """Someone with a key, and a client to use it with."""

    client: TestClient
    secret: str

    def headers(self, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"} | {name.replace("_", "-"): v for name, v in more.items()}

    def get(self, path: str, **params: int) -> Any:
        return self.client.get(path, params=params, headers=self.headers())

    def post_npy(self, array: NDArray[np.generic], *, path: str = LABELS, **headers: str) -> Any:
        """Send an array; ``headers`` with underscores for hyphens."""
        content = encode_npy(array)
        return self.client.post(path, content=content, headers=self.headers(Content_Type=NPY_MEDIA_TYPE, **headers))

    def ask(self, numbers: Iterable[int], **headers: str) -> Any:
        return self.post_npy(numbered_images(numbers), **headers)

    def buy(self, numbers: Iterable[int], **headers: str) -> LabelsAnswer:
        response = self.ask(numbers, **headers)
        assert response.status_code == 200, response.text
        return LabelsAnswer.model_validate(response.json())

    def spent(self) -> int:
        response = self.get("/v1/usage")
        assert response.status_code == 200, response.text
        return int(response.json()["spent"])


@dataclass(frozen=True)
class World:
    """One server on one ledger."""

    app: FastAPI
    client: TestClient
    classifier: NumbersClassifier
    settings: TeacherSettings
    database: Database

    def holder(self, name: str = "ada", *, budget: int = 1000, disclosure: str = "probabilities") -> Holder:
        _, secret = create_key(
            self.database, name=name, budget=budget, disclosure=Disclosure.parse(disclosure), expires_at=None
        )
        return Holder(self.client, secret)


def new_key(database: Database, name: str = "ada", *, budget: int = 100) -> Key:
    key, _ = create_key(database, name=name, budget=budget, disclosure=PROBABILITIES, expires_at=None)
    return key


def history(database: Database, key: Key) -> list[Event]:
    return [signed.event for signed in Ledger(database).history(key, after=0, limit=1_000_000)]


def require_sound(database: Database) -> None:
    """Every key's counters are the sums of its events, within its budget, and its chain is unbroken."""
    for key in list_keys(database):
        events = history(database, key)
        assert chain_faults(events) == []
        assert [event.kind for event in events].count("create") == 1
        assert sum(event.images for event in events if event.kind == "answer") == key.spent
        assert sum(event.images for event in events if event.kind in ("create", "grant")) == key.granted
        assert 0 <= key.spent <= key.granted
        assert all(event.key_name == key.name for event in events)


def require_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """A problem document in every respect; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"/docs#{code}"
    assert problem["title"]
    assert problem["detail"]
    assert isinstance(problem["retryable"], bool)
    assert response.headers["x-should-retry"] == str(problem["retryable"]).lower()
    assert response.headers["request-id"] == problem["request_id"]
    assert "Traceback" not in response.text
    assert ("retry-after" in response.headers) is (problem["retryable"] and status in (409, 429, 503))
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    return problem


def spent_on_file(ledger_url: str, name: str = "ada") -> int:
    """What the ledger's file says, through a connection of its own."""
    with closing(open_database(ledger_url, create=True)) as database:
        return next(key.spent for key in list_keys(database) if key.name == name)


def file_of(ledger_url: str) -> Path:
    return Path(ledger_url.removeprefix("sqlite:///"))


def key_of(database: Database, secret: str) -> Key:
    return authenticate(database, secret)
