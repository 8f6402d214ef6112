"""The real server with a classifier that costs nothing, its ledger, and the real client's transport to it."""

from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np
import stamina
from numpy.typing import NDArray
from starlette.testclient import TestClient

from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.transport import Transport
from shared.wire.contracts import Disclosure, InputSpec
from teacher_server.app import create_app
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import KeyLimits, create_key
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher
from tests.distill_client.fakes import answer_to

CLASSES = tuple("0123456789")


@dataclass
class HashClassifier:
    """Answers by the images' digests, as the client's own fake teacher does."""

    classes: int = len(CLASSES)
    batches: list[int] = field(default_factory=list)

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images_nhwc))
        probabilities_nk = answer_to(images_nhwc)
        assert probabilities_nk.dtype == np.float32
        return probabilities_nk.astype(np.float32)


class LosingTransport(httpx2.BaseTransport):
    """Passes every request on; the answers whose turn is in ``lost`` get lost on their way back."""

    def __init__(self, onward: httpx2.BaseTransport, lost: Set[int]) -> None:
        self._onward = onward
        self._lost = lost
        self.turns = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.turns += 1
        turn = self.turns
        response = self._onward.handle_request(request)
        if turn in self._lost:
            raise httpx2.ReadError("the connection was lost", request=request)
        return response


@dataclass
class World:
    """A server, its ledger, and keys and clients for it."""

    app_client: TestClient
    database: Database
    classifier: HashClassifier
    catalogue: Catalogue
    stack: ExitStack

    def key(
        self, name: str = "ada", *, budget: int = 1000, disclosure: str = "probabilities", **limits: int | None
    ) -> str:
        parsed = Disclosure.parse(disclosure)
        return create_key(
            self.database,
            name=name,
            budget=budget,
            disclosure=parsed,
            expires_at=None,
            limits=KeyLimits(**limits),
        )[1]

    def connect(
        self,
        secret: str,
        name: str = "hash",
        *,
        per_page: int = 1000,
        lost: set[int] | None = None,
        version: str | None = None,
        deadline_s: float = 5,
    ) -> NativeTeacher:
        transport = LosingTransport(self.app_client._transport, lost or set())
        headers = {"Authorization": f"Bearer {secret}"}
        client = httpx2.Client(transport=transport, base_url="http://testserver", headers=headers)
        teacher = NativeTeacher(
            Transport(client),
            name,
            manners=Manners(deadline_s, requests_in_flight=8),
            events_per_page=per_page,
            version=version,
        )
        self.stack.callback(teacher.close)
        return teacher


@contextmanager
def serving(ledger: Path) -> Iterator[World]:
    """A server on an SQLite ledger, from its start to its end."""
    url = f"sqlite:///{ledger}"
    classifier = HashClassifier()
    served = Teacher(
        name="hash",
        version="7",
        class_names=CLASSES,
        input=InputSpec(height=4, width=4, channels=1),
        classifier=classifier,
        test_accuracy=0.5,
        test_dataset="digits",
    )
    settings = TeacherSettings.load(bundles=(Path("unused"),), ledger=url, images_per_request_max=64)
    with ExitStack() as stack, stamina.set_testing(True, attempts=10):
        app = create_app(settings, [served])
        client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
        database = open_database(url, create=True)
        stack.callback(database.close)
        yield World(client, database, classifier, app.state.server.catalogue, stack)


def some_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), np.uint8)
