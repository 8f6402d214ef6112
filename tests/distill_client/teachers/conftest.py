"""The native client in front of a script of answers."""

from collections.abc import Iterator

import httpx2
import pytest
import stamina

from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.transport import Transport
from tests.distill_client.teachers.scripted import MakeTeacher, Script, Step


@pytest.fixture
def make_teacher() -> Iterator[MakeTeacher]:
    made: list[NativeTeacher] = []

    def make(*steps: Step, name: str = "fake", deadline_s: float = 5.0) -> tuple[NativeTeacher, Script]:
        script = Script(list(steps))
        client = httpx2.Client(
            transport=httpx2.MockTransport(script),
            base_url="http://teacher.test",
            headers={"Authorization": "Bearer k"},
        )
        made.append(NativeTeacher(Transport(client), name, manners=Manners(deadline_s, requests_in_flight=8)))
        return made[-1], script

    yield make
    for teacher in made:
        teacher.close()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Retries come at once, five attempts at most."""
    with stamina.set_testing(True, attempts=5):
        yield
