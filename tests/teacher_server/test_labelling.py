"""The spine without HTTP: what is computed when, and what is kept."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import select

from shared.wire.contracts import Disclosure
from shared.wire.error_codes import ErrorCode
from shared.wire.images import answer_digest, batch_digest, encode_npy, image_digests
from teacher_server.admission import Admission
from teacher_server.decoding import DecodingLimits, NpyBody
from teacher_server.errors import Refusal
from teacher_server.fingerprints import FINGERPRINT
from teacher_server.labelling import Labelling, LabelRequest
from teacher_server.ledger.charging.answers import Answered
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import Key, create_key, list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.tables import event_images
from teacher_server.teachers.catalogue import Catalogue
from tests.teacher_server.support import (
    NumbersClassifier,
    history,
    new_key,
    numbered_images,
    numbers_of,
    numbers_teacher,
    require_sound,
)

Ask = Callable[..., Answered]


@pytest.fixture
def classifier() -> NumbersClassifier:
    return NumbersClassifier()


@pytest.fixture
def ask(database: Database, classifier: NumbersClassifier) -> Ask:
    teachers = Catalogue([numbers_teacher(classifier)])
    limits = DecodingLimits(images_max=100, file_pixels_max=10_000, request_pixels_max=100_000)
    admission = Admission(requests_max=8, requests_per_key_max=8)
    labelling = Labelling(teachers, Ledger(database), admission, limits, classifying_threads=2)

    def answer(key: Key, numbers: list[int], idempotency_key: str, *, teacher: str = "numbers") -> Answered:
        body = NpyBody(encode_npy(numbered_images(numbers)))
        return labelling.answer(LabelRequest(key, teacher, body, idempotency_key, f"request {idempotency_key}"))

    return answer


def test_the_event_is_about_these_images_and_this_answer(database: Database, ask: Ask) -> None:
    key = new_key(database)
    answered = ask(key, [5, 900], "a")
    digests = image_digests(numbered_images([5, 900]))
    event = history(database, key)[-1]
    assert event == answered.event
    assert event.input_digest == batch_digest(digests)
    assert event.answer_digest == answer_digest(answered.disclosed)
    assert answered.request_id == "request a"
    assert numbers_of(answered.disclosed.astype(np.float32)) == [5, 900]


def test_what_is_kept_of_the_images_does_not_depend_on_what_was_disclosed(database: Database, ask: Ask) -> None:
    for name in ("probabilities", "label", "top-k:1"):
        key, _ = create_key(
            database, name=name.replace(":", "-"), budget=9, disclosure=Disclosure.parse(name), expires_at=None
        )
        ask(key, [60_000, 3], "a")
    with database.reading() as connection:
        kept = connection.execute(select(event_images.c.fingerprints)).scalars().all()
    assert len(kept) == 3
    assert len(set(kept)) == 1
    records = np.frombuffer(kept[0], FINGERPRINT)
    assert [record.tobytes() for record in records["digest"]] == image_digests(numbered_images([60_000, 3]))
    assert records["top_class"].tolist() == [0, 2]
    assert records["confidence"][0] == np.float32(0.6)


def test_nothing_is_computed_for_what_is_not_answered(
    database: Database, ask: Ask, classifier: NumbersClassifier
) -> None:
    key = new_key(database, budget=3)
    ask(key, [1, 2], "a")
    assert ask(key, [1, 2], "a").is_replay
    for numbers, idempotency_key, teacher, code in (
        ([2, 1], "a", "numbers", ErrorCode.IDEMPOTENCY_KEY_REUSED),
        ([1, 2], "b", "no-such", ErrorCode.TEACHER_NOT_FOUND),
        ([1, 2], "c", "numbers", ErrorCode.BUDGET_EXHAUSTED),
        (list(range(101)), "d", "numbers", ErrorCode.TOO_MANY_IMAGES),
    ):
        with pytest.raises(Refusal) as refusal:
            ask(list_keys(database)[0], numbers, idempotency_key, teacher=teacher)
        assert refusal.value.code is code
    assert classifier.calls == 1
    require_sound(database)


def test_a_look_at_the_budget_that_is_old_only_costs_work(database: Database, ask: Ask) -> None:
    """The key was read when its caller was recognised; the charge reads it again."""
    key = new_key(database, budget=3)
    ask(key, [1, 2], "a")
    with pytest.raises(Refusal) as refusal:
        ask(key, [3, 4], "b")
    assert refusal.value.members == {"granted": 3, "spent": 2, "asked": 2}
    require_sound(database)


def test_rows_of_many_callers_return_to_their_owners(database: Database, ask: Ask) -> None:
    holders = [new_key(database, f"key-{number}", budget=50) for number in range(4)]

    def buy(turn: int) -> None:
        numbers = [turn * 100 + offset for offset in range(1 + turn % 5)]
        answered = ask(holders[turn % 4], numbers, str(turn))
        assert numbers_of(answered.disclosed.astype(np.float32)) == numbers

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(buy, range(40)))
    require_sound(database)
