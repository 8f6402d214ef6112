"""Answers: in what form, to whom each row belongs, and the same again byte for byte."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from shared.wire import contracts
from shared.wire.contracts import Disclosure, InputSpec, LabelsAnswer
from shared.wire.images import NPY_MEDIA_TYPE, answer_digest, decode_npy, encode_npy
from shared.wire.rate_limits import HEADER_RATE_LIMIT
from shared.wire.receipts import chain_faults
from teacher_server.admission import Admission
from teacher_server.app import create_app
from teacher_server.ledger.keys.issuing import Key, create_key
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.teacher import Teacher
from tests.teacher_server.api.raw import chunk, each, never, npy_headers, raw_call
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.support import (
    LABELS,
    Holder,
    World,
    numbered_images,
    numbers_of,
    require_problem,
    require_sound,
)

ACCEPT_NPY = {"Accept": NPY_MEDIA_TYPE}
# What a replay says of itself, and of the key's limits now.
HEADERS_OF_A_REPLAY = ("date", contracts.HEADER_REPLAYED.lower(), HEADER_RATE_LIMIT.lower())


def events_of(holder: Holder) -> list[contracts.Event]:
    return contracts.EventsPage.model_validate(holder.get("/v1/events").json()).events


def same_headers(one: Any, other: Any) -> bool:
    return {k: v for k, v in one.headers.items() if k not in HEADERS_OF_A_REPLAY} == {
        k: v for k, v in other.headers.items() if k not in HEADERS_OF_A_REPLAY
    }


def test_every_row_returns_to_its_owner_in_order(world: World) -> None:
    holder = world.holder()
    numbers = [7, 65_535, 0, 7, 258, 256]
    answer = holder.buy(numbers)
    assert answer.probabilities is not None
    assert numbers_of(answer.probabilities) == numbers
    assert (answer.labels, answer.top_k) == (None, None)
    assert (answer.teacher, answer.version) == ("numbers", "1")
    assert (answer.charged, answer.spent, answer.remaining) == (6, 6, 994), "a repeated image is charged"
    event = events_of(holder)[-1]
    assert (answer.event.sequence, answer.event.hash) == (event.sequence, event.hash) == (2, event.hash)


def test_the_headers_say_what_the_json_says(world: World) -> None:
    holder = world.holder(budget=10)
    response = holder.ask([1, 2], Idempotency_Key="mine")
    answer = LabelsAnswer.model_validate(response.json())
    assert response.headers["content-type"] == "application/json"
    assert {name: response.headers[name] for name in (
        contracts.HEADER_REQUEST_ID, contracts.HEADER_IDEMPOTENCY_KEY, contracts.HEADER_REPLAYED,
        contracts.HEADER_TEACHER, contracts.HEADER_VERSION, contracts.HEADER_DISCLOSURE, contracts.HEADER_CHARGED,
        contracts.HEADER_SPENT, contracts.HEADER_REMAINING, contracts.HEADER_EVENT_SEQUENCE,
        contracts.HEADER_EVENT_HASH,
    )} == {
        "Request-Id": answer.request_id, "Idempotency-Key": "mine", "Idempotency-Replayed": "false",
        "Teacher-Name": "numbers", "Teacher-Version": "1", "Teacher-Disclosure": "probabilities",
        "Images-Charged": "2", "Images-Spent": "2", "Images-Remaining": "8",
        "Event-Sequence": "2", "Event-Hash": answer.event.hash,
    }  # fmt: skip


# --- again --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["application/json", NPY_MEDIA_TYPE])
@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2", "label"])
def test_a_replay_is_byte_for_byte_also_from_another_server(
    make_world: MakeWorld, accept: str, disclosure: str
) -> None:
    world = make_world()
    holder = world.holder(budget=5, disclosure=disclosure)
    first = holder.ask([5, 6, 7], Idempotency_Key="once", Accept=accept)
    holder.buy([1, 2])  # the budget is used up; a replay needs none
    again = holder.ask([5, 6, 7], Idempotency_Key="once", Accept=accept)
    other_server = make_world()
    elsewhere = Holder(other_server.client, holder.secret).ask([5, 6, 7], Idempotency_Key="once", Accept=accept)
    for replay in (again, elsewhere):
        assert replay.status_code == 200
        assert replay.content == first.content
        assert same_headers(replay, first)
        assert replay.headers[contracts.HEADER_REPLAYED] == "true"
    assert (world.classifier.calls, other_server.classifier.calls) == (2, 0), "found before anything is computed"
    assert holder.spent() == 5
    require_sound(world.database)


def test_a_replay_may_be_asked_for_in_the_other_form(world: World) -> None:
    holder = world.holder()
    as_json = holder.buy([5, 6], Idempotency_Key="once")
    as_npy = holder.ask([5, 6], Idempotency_Key="once", **ACCEPT_NPY)
    assert np.array_equal(decode_npy(as_npy.content), np.array(as_json.probabilities, np.float32))
    assert holder.spent() == 2


def test_the_key_that_the_server_made_replays_too(world: World) -> None:
    holder = world.holder()
    first, second = holder.ask([1]), holder.ask([1])
    made = [response.headers[contracts.HEADER_IDEMPOTENCY_KEY] for response in (first, second)]
    assert made[0] != made[1], "without a key every request is a new one"
    assert all(re.fullmatch(contracts.IDEMPOTENCY_KEY_PATTERN, key) for key in made)
    assert holder.spent() == 2
    assert holder.ask([1], Idempotency_Key=made[0]).content == first.content
    assert holder.spent() == 2


def test_an_idempotency_key_used_for_something_else(world: World) -> None:
    holder = world.holder()
    holder.buy([1, 2], Idempotency_Key="mine")
    for response in (
        holder.ask([2, 1], Idempotency_Key="mine"),
        holder.ask([1], Idempotency_Key="mine"),
        holder.post_npy(numbered_images([1, 2]), path="/v1/teachers/numbers-too/labels", Idempotency_Key="mine"),
    ):
        assert "mine" in require_problem(response, 422, "idempotency_key_reused")["detail"]
    assert (holder.spent(), world.classifier.calls) == (2, 1)
    bob = world.holder("bob")
    assert bob.buy([2, 1], Idempotency_Key="mine").charged == 2, "another key's names are its own"
    require_sound(world.database)


@pytest.mark.parametrize("given", ["", " ", "with space", "tab\there", "é", "x" * 256, "\x7f", "a\xa0b"])
def test_idempotency_keys_that_are_not_usable(world: World, given: str) -> None:
    headers = npy_headers(world.holder().secret, Idempotency_Key=given)
    require_problem(raw_call(world, headers, never()), 422, "invalid_idempotency_key")


@pytest.mark.parametrize("given", ["x", "!", "~" * 255, "a/b:c?d=e&f#g\"'"])
def test_idempotency_keys_that_are(world: World, given: str) -> None:
    holder = world.holder()
    headers = npy_headers(holder.secret, Idempotency_Key=given)
    answer = raw_call(world, headers, each([chunk(encode_npy(numbered_images([4])), more=False)]))
    assert answer.status_code == 200
    assert answer.headers[contracts.HEADER_IDEMPOTENCY_KEY.lower()] == given
    assert events_of(holder)[-1].idempotency_key == given


def test_one_idempotency_key_from_many_callers_at_once(world: World) -> None:
    holder = world.holder(budget=3)
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: holder.ask([1, 2, 3], Idempotency_Key="one"), range(8)))
    answered = [response for response in responses if response.status_code == 200]
    assert len({response.content for response in answered}) == 1
    assert [response.headers[contracts.HEADER_REPLAYED] for response in answered].count("false") == 1
    for response in responses:
        if response.status_code != 200:  # never 403: the budget is not used up by others
            assert response.json()["code"] in ("overloaded", "still_running")
            require_problem(response, response.status_code, response.json()["code"])
    assert holder.spent() == 3
    require_sound(world.database)


def test_a_request_whose_twin_spends_the_budget_first_is_answered_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for an earlier answer and the place of the first, the same request is answered and charged."""
    holder = world.holder(budget=3)
    twins: list[Any] = []
    first = Admission.first

    def late(self: Admission, key: Key, idempotency_key: str) -> AbstractContextManager[None]:
        if not twins:
            twins.append(None)
            twins[0] = holder.ask([1, 2, 3], Idempotency_Key="one")
        return first(self, key, idempotency_key)

    monkeypatch.setattr(Admission, "first", late)
    answered = holder.ask([1, 2, 3], Idempotency_Key="one")
    assert (answered.status_code, answered.content) == (200, twins[0].content)
    assert (answered.headers[contracts.HEADER_REPLAYED], holder.spent()) == ("true", 3)
    assert [event.kind for event in events_of(holder)] == ["create", "answer"], "nobody was refused"
    require_sound(world.database)


def test_many_callers_never_pass_the_budget(world: World) -> None:
    holder = world.holder(budget=30)

    def buy(worker: int) -> int:
        bought = 0
        for turn in range(5):
            images = 1 + (worker * 5 + turn) % 4
            response = holder.ask([worker] * images)
            if response.status_code == 200:
                assert numbers_of(response.json()["probabilities"]) == [worker] * images
                bought += images
            else:
                assert (response.status_code, response.json()["code"]) in (
                    (403, "budget_exhausted"),
                    (503, "overloaded"),
                )
        return bought

    with ThreadPoolExecutor(8) as pool:
        bought = sum(pool.map(buy, range(8)))
    assert bought == holder.spent() <= 30
    require_sound(world.database)


# --- what is disclosed --------------------------------------------------------------------------------------------


class RandomClassifier:
    """Seven classes, the same random rows every time; among them ties and tiny values."""

    classes = 7

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = np.random.default_rng(1).dirichlet([0.05] * 7, len(images_nhwc))
        rows[0], rows[1], rows[2] = [1 / 7] * 7, [0.5, 0.5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1]
        rows[3] = [4e-7, 5e-7, 6e-7, 0.25, 0.25, 0.25, 0.25]
        return rows.astype(np.float32)


IMAGES = 60


@pytest.fixture
def holders(ledger_url: str) -> Iterator[dict[str, Holder]]:
    settings = TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger_url)
    teacher = Teacher(
        "numbers", "1", tuple("abcdefg"), InputSpec(height=8, width=8, channels=1), RandomClassifier(), None, None
    )
    database = open_database(ledger_url, create=True)
    with TestClient(create_app(settings, [teacher])) as client:
        yield {
            text: Holder(client, create_key(
                database, name=text.replace(":", "-"), budget=500, disclosure=Disclosure.parse(text), expires_at=None
            )[1])
            for text in ("probabilities", "label", "top-k:1", "top-k:3", "top-k:7", "top-k:99999")
        }  # fmt: skip
    database.close()


def test_probabilities_are_rounded_once_and_survive_json(holders: dict[str, Holder]) -> None:
    holder = holders["probabilities"]
    response = holder.ask(range(IMAGES))
    numerals = re.findall(r"[0-9][0-9.e-]*", response.text.partition('"probabilities"')[2].partition('"')[0])
    assert len(numerals) == IMAGES * 7
    assert all(float(numeral) == round(float(numeral), 6) for numeral in numerals)
    assert all(len(numeral.partition(".")[2]) <= 6 or "e-" in numeral for numeral in numerals)
    from_json = np.array(response.json()["probabilities"], np.float32)
    exact = RandomClassifier().probabilities(numbered_images(range(IMAGES)))
    assert np.abs(from_json.astype(np.float64) - exact).max() <= 5.1e-7
    as_npy = holder.ask(range(IMAGES), **ACCEPT_NPY)
    from_npy = decode_npy(as_npy.content)
    assert from_npy.dtype == np.float32
    assert np.array_equal(from_json, from_npy)
    assert {event.answer_digest for event in events_of(holder)[1:]} == {answer_digest(from_json)}


def test_labels_are_the_largest_and_nothing_else(holders: dict[str, Holder]) -> None:
    holder = holders["label"]
    response = holder.ask(range(IMAGES))
    answer = LabelsAnswer.model_validate(response.json())
    exact = RandomClassifier().probabilities(numbered_images(range(IMAGES)))
    assert answer.labels is not None
    assert answer.labels == exact.argmax(axis=1).tolist()
    assert answer.labels[:3] == [0, 0, 6], "the first among equals"
    assert (answer.probabilities, answer.top_k) == (None, None)
    assert "probab" not in response.text
    as_npy = decode_npy(holder.ask(range(IMAGES), **ACCEPT_NPY).content)
    assert (as_npy.dtype, as_npy.tolist()) == (np.dtype(np.int64), answer.labels)
    assert {event.answer_digest for event in events_of(holder)[1:]} == {answer_digest(np.array(answer.labels))}


@pytest.mark.parametrize("k", [1, 3, 7, 99999])
def test_top_k_gives_k_of_them_largest_first(holders: dict[str, Holder], k: int) -> None:
    holder = holders[f"top-k:{k}"]
    response = holder.ask(range(IMAGES))
    answer = LabelsAnswer.model_validate(response.json())
    assert answer.top_k is not None
    assert (answer.probabilities, answer.labels) == (None, None)
    rebuilt = np.full((IMAGES, 7), np.nan, np.float32)
    for row, entries in enumerate(answer.top_k):
        assert len(entries) == min(k, 7)
        ranked = [entry.probability for entry in entries]
        assert ranked == sorted(ranked, reverse=True)
        rebuilt[row, [entry.label for entry in entries]] = ranked
    exact = RandomClassifier().probabilities(numbered_images(range(IMAGES)))
    assert [entries[0].label for entries in answer.top_k] == exact.argmax(axis=1).tolist()
    hidden = np.isnan(rebuilt)
    assert (np.where(hidden, exact, -1).max(axis=1) <= np.where(hidden, 2, exact).min(axis=1)).all()
    as_npy = decode_npy(holder.ask(range(IMAGES), **ACCEPT_NPY).content)
    assert as_npy.tobytes() == rebuilt.tobytes()
    assert {event.answer_digest for event in events_of(holder)[1:]} == {answer_digest(rebuilt)}


# --- in which form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json", "application/json"),
        ("Application/JSON; q=0.5", "application/json"),
        ("text/html, application/*;q=0.8", "application/json"),
        ("application/x-npy", NPY_MEDIA_TYPE),
        ("application/json;q=0.1, application/X-NPY", NPY_MEDIA_TYPE),
    ],
)
def test_the_form_is_the_one_asked_for(world: World, accept: str | None, kind: str) -> None:
    headers = npy_headers(world.holder().secret) | ({} if accept is None else {"Accept": accept})
    answer = raw_call(world, headers, each([chunk(encode_npy(numbered_images([4])), more=False)]))
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/xml, text/plain", "application/x-npz"])
def test_other_forms_are_refused_unread(world: World, accept: str) -> None:
    headers = npy_headers(world.holder().secret, Accept=accept)
    problem = require_problem(raw_call(world, headers, never()), 406, "not_acceptable")
    assert NPY_MEDIA_TYPE in problem["detail"]


def test_an_unknown_teacher_is_refused_unread(world: World) -> None:
    holder = world.holder()
    answer = raw_call(world, npy_headers(holder.secret), never(), path="/v1/teachers/no-such/labels")
    assert "no-such" in require_problem(answer, 404, "teacher_not_found")["detail"]
    require_problem(holder.get("/v1/teachers/no-such"), 404, "teacher_not_found")


def test_the_chain_that_a_holder_sees_is_sound(world: World) -> None:
    holder = world.holder()
    for turn in range(5):
        holder.buy([turn] * (turn + 1))
    events = events_of(holder)
    assert chain_faults(events) == []
    assert [event.images for event in events] == [1000, 1, 2, 3, 4, 5]
    assert holder.client.get(LABELS, headers=holder.headers()).status_code == 405
