"""Two versions of one teacher side by side: how each is asked, what its answers say, and what a replay gives."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from shared.wire.contracts import HEADER_VERSION, InputSpec, TeacherCard, TeacherList
from shared.wire.images import Images
from teacher_server.app import create_app
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher
from tests.teacher_server.support import (
    LABELS,
    PROBABILITIES,
    Holder,
    NumbersClassifier,
    numbered_images,
    numbers_teacher,
    require_problem,
    require_sound,
)


def address(version: str) -> str:
    return f"/v1/teachers/numbers/versions/{version}/labels"


@dataclass
class Shelf:
    holder: Holder
    catalogue: Catalogue
    classifiers: dict[str, NumbersClassifier]

    def serve(self, *versions: str, **changes: object) -> None:
        self.catalogue.replace([self.teacher(version, **changes) for version in versions])

    def teacher(self, version: str, **changes: object) -> Teacher:
        return replace(numbers_teacher(self.classifiers[version], version=version), **changes)  # type: ignore[arg-type]


@pytest.fixture
def shelf(ledger_url: str, database: Database) -> Iterator[Shelf]:
    classifiers = {version: NumbersClassifier() for version in ("1", "2", "a/b c")}
    served = [numbers_teacher(classifier, version=version) for version, classifier in classifiers.items()]
    app = create_app(TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger_url), served)
    _, secret = create_key(database, name="ada", budget=1000, disclosure=PROBABILITIES, expires_at=None)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Shelf(Holder(client, secret), app.state.server.catalogue, classifiers)
    require_sound(database)


def png(number: int, side: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(numbered_images([number])[0, :, :, 0]).resize((side, side)).save(content, "PNG")
    return content.getvalue()


def test_every_version_is_listed_and_says_which_is_the_default(shelf: Shelf) -> None:
    cards = TeacherList.model_validate(shelf.holder.get("/v1/teachers").json()).teachers
    assert [(card.name, card.version, card.answers_by_default) for card in cards] == [
        ("numbers", "1", False),
        ("numbers", "2", False),
        ("numbers", "a/b c", True),
    ]
    assert TeacherCard.model_validate(shelf.holder.get("/v1/teachers/numbers").json()) == cards[2]
    assert TeacherCard.model_validate(shelf.holder.get("/v1/teachers/numbers/versions/1").json()) == cards[0]
    assert shelf.holder.get("/v1/teachers/numbers/versions/a%2Fb%20c").json()["version"] == "a/b c"


def test_each_version_answers_at_its_own_address_and_the_default_at_the_plain_one(shelf: Shelf) -> None:
    for path, version in (
        (address("1"), "1"),
        (address("2"), "2"),
        (LABELS, "a/b c"),
        (address("a%2Fb%20c"), "a/b c"),
    ):
        before = shelf.classifiers[version].calls
        response = shelf.holder.ask([5], path=path)
        assert response.json()["version"] == response.headers[HEADER_VERSION] == version
        assert shelf.classifiers[version].calls == before + 1
    events = [event for event in shelf.holder.get("/v1/events").json()["events"] if event["kind"] == "answer"]
    assert [event["version"] for event in events] == ["1", "2", "a/b c", "a/b c"]


def test_a_version_that_is_not_here_is_refused_with_those_that_are_and_charges_nothing(shelf: Shelf) -> None:
    problem = require_problem(shelf.holder.ask([5], path=address("3")), 404, "teacher_not_found")
    assert problem["detail"] == "version is '3'; of teacher 'numbers' this server has '1', '2', 'a/b c'"
    require_problem(shelf.holder.get("/v1/teachers/numbers/versions/3"), 404, "teacher_not_found")
    require_problem(shelf.holder.get("/v1/teachers/none/versions/1"), 404, "teacher_not_found")
    require_problem(shelf.holder.ask([5], path="/v1/teachers/none/versions/1/labels"), 404, "teacher_not_found")
    assert shelf.holder.spent() == 0


@pytest.mark.parametrize("path", [LABELS, address("1")])
@pytest.mark.parametrize("left", [("2",), ()], ids=["another version is left", "nothing is left"])
def test_a_replay_gives_the_stored_answer_after_its_version_is_gone(
    shelf: Shelf, path: str, left: tuple[str, ...]
) -> None:
    shelf.serve("1")
    first = shelf.holder.ask([5, 7], path=path, Idempotency_Key="k")
    shelf.serve(*left)
    again = shelf.holder.ask([5, 7], path=path, Idempotency_Key="k")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers[HEADER_VERSION] == "1"
    assert again.headers["Idempotency-Replayed"] == "true"
    assert shelf.holder.spent() == 2
    other = shelf.holder.ask([5, 8], path=path, Idempotency_Key="k")
    if left and path == LABELS:
        require_problem(other, 422, "idempotency_key_reused")
    else:
        require_problem(other, 404, "teacher_not_found")
    assert shelf.holder.spent() == 2


def test_a_replay_is_recognised_although_the_new_version_takes_other_images(shelf: Shelf) -> None:
    shelf.serve("1")
    first = shelf.holder.ask([5], Idempotency_Key="array")
    stretched = {"input": InputSpec(height=16, width=16, channels=1, resize="stretch")}

    def post_file(side: int) -> object:
        files = [("images", ("a.png", png(9, side), "image/png"))]
        headers = shelf.holder.headers(Idempotency_Key="file")
        return shelf.holder.client.post(LABELS, files=files, headers=headers)

    first_file = post_file(8)
    shelf.serve("2", **stretched)
    assert shelf.holder.ask([5], Idempotency_Key="array").content == first.content
    assert post_file(8).content == first_file.content  # type: ignore[attr-defined]
    require_problem(shelf.holder.ask([5], Idempotency_Key="new"), 422, "invalid_images")
    assert shelf.holder.spent() == 2


def test_one_idempotency_key_is_not_two_versions(shelf: Shelf) -> None:
    assert shelf.holder.ask([5], path=LABELS, Idempotency_Key="k").json()["version"] == "a/b c"
    assert shelf.holder.ask([5], path=address("a%2Fb%20c"), Idempotency_Key="k").status_code == 200
    refused = shelf.holder.ask([5], path=address("1"), Idempotency_Key="k")
    assert (
        "was answered by version 'a/b c', not '1'"
        in require_problem(refused, 422, "idempotency_key_reused")["detail"]
    )
    assert shelf.holder.spent() == 1


def test_a_request_in_flight_is_answered_by_the_version_it_began_with(shelf: Shelf) -> None:
    import threading

    shelf.serve("1")
    shelf.classifiers["1"].may_go_on.clear()
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(shelf.holder.ask([5]).json()))
    thread.start()
    assert shelf.classifiers["1"].waiting.acquire(timeout=30)
    shelf.serve("2")
    assert shelf.holder.ask([6]).json()["version"] == "2"
    shelf.classifiers["1"].may_go_on.set()
    thread.join(30)
    assert [answer["version"] for answer in answers] == ["1"]  # type: ignore[index]


def test_images_of_an_absent_teacher_are_not_even_read(shelf: Shelf) -> None:
    wrong: Images = np.zeros((1, 3, 3, 1), np.uint8)
    require_problem(shelf.holder.post_npy(wrong, path=address("9"), Idempotency_Key="new"), 404, "teacher_not_found")
