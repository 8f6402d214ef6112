"""The real client's transport against the real application, in one process."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
import stamina

from distill_client.audit import audit_run, read_log
from distill_client.errors import BudgetExhausted, TeacherChanged, TeacherRefused, TeacherUnavailable
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.teacher import NativeTeacher
from distill_client.teachers.paid.buying import buy_stage, images_per_request
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import Answer
from distill_client.teachers.protocol import Teacher as TeacherProtocol
from distill_client.teachers.transport import Transport
from shared.wire.contracts import Usage
from shared.wire.images import answer_digest, batch_digest, image_digests
from shared.wire.receipts import chain_faults
from teacher_server.ledger.keys.issuing import grant_images, revoke_key
from tests.contract.world import CLASSES, World, some_images
from tests.distill_client.fakes import answer_to


def test_starlettes_client_is_the_clients_own_http_library(world: World) -> None:
    assert isinstance(world.app_client, httpx2.Client)
    world.app_client.headers["Authorization"] = f"Bearer {world.key()}"
    teacher: TeacherProtocol = NativeTeacher(
        Transport(world.app_client), "hash", manners=Manners(5, requests_in_flight=8)
    )
    assert teacher.usage().remaining == 1000


def test_card_and_usage_are_what_the_server_says(world: World) -> None:
    teacher = world.connect(world.key(budget=50, disclosure="top-k:3"))
    card = teacher.card()
    assert (card.name, card.version, card.classes) == ("hash", "7", list(CLASSES))
    assert (card.input.height, card.input.width, card.input.channels) == (4, 4, 1)
    assert (card.disclosure, card.images_per_request_max, card.test_accuracy) == ("top-k:3", 64, 0.5)
    assert card.budget == teacher.usage() == Usage(granted=50, spent=0, remaining=50)
    teacher.label(some_images(8), "key-1")
    assert teacher.usage() == Usage(granted=50, spent=8, remaining=42)
    assert teacher.card().budget.remaining == 42


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:1", "top-k:3", "top-k:99", "label"])
def test_answers_under_every_disclosure(world: World, disclosure: str) -> None:
    teacher, images = world.connect(world.key(disclosure=disclosure)), some_images(9)
    answer = teacher.label(images, "key-1")
    expected = answer_to(images, disclosure)
    assert answer.values.dtype == expected.dtype
    assert np.array_equal(answer.values, expected, equal_nan=expected.dtype.kind == "f")
    assert (answer.version, answer.disclosure) == ("7", disclosure)
    assert (answer.charged, answer.spent, answer.remaining) == (9, 9, 991)
    _, event = teacher.events()
    assert (answer.event_sequence, answer.event_hash) == (event.sequence, event.hash)
    assert event.input_digest == batch_digest(image_digests(images))
    assert event.answer_digest == answer_digest(answer.values)
    assert event.idempotency_key == "key-1"


def test_a_replay_is_the_same_answer_and_no_second_charge(world: World) -> None:
    teacher, images = world.connect(world.key()), some_images(5)
    first = teacher.label(images, "key-1")
    teacher.label(some_images(3, seed=1), "key-2")
    again = teacher.label(images, "key-1")
    assert np.array_equal(first.values, again.values)
    assert (again.charged, again.event_sequence, again.event_hash) == (5, first.event_sequence, first.event_hash)
    assert teacher.usage().spent == 8
    with pytest.raises(TeacherRefused, match="idempotency_key_reused"):
        teacher.label(some_images(5, seed=2), "key-1")
    assert teacher.usage().spent == 8


@pytest.mark.parametrize("per_page", [1, 3, 4, 1000])
def test_events_come_whole_and_in_order_from_many_pages(world: World, per_page: int) -> None:
    teacher = world.connect(world.key(), per_page=per_page)
    for number in range(6):
        teacher.label(some_images(1, seed=number), f"key-{number}")
    grant_images(world.database, name="ada", images=5)
    events = list(teacher.events())
    assert [event.sequence for event in events] == list(range(1, 9))
    assert [event.kind for event in events] == ["create", *["answer"] * 6, "grant"]
    assert chain_faults(events) == []


def test_an_exhausted_budget_comes_with_its_numbers(world: World) -> None:
    teacher = world.connect(world.key(budget=10))
    teacher.label(some_images(8), "key-1")
    with pytest.raises(BudgetExhausted, match="3 images asked for, 2 of 10 remain") as caught:
        teacher.label(some_images(3, seed=1), "key-2")
    assert (caught.value.granted, caught.value.spent) == (10, 8)
    assert teacher.usage().spent == 8
    teacher.label(some_images(8), "key-1")
    grant_images(world.database, name="ada", images=1)
    assert teacher.label(some_images(3, seed=1), "key-2").remaining == 0


def test_a_version_that_is_asked_for_answers_or_nobody_does(world: World) -> None:
    secret, images = world.key(), some_images(5)
    teacher = world.connect(secret, version="7")
    assert teacher.card().version == "7"
    first = teacher.label(images, "key-1")
    served = world.catalogue.find("hash")
    assert served is not None
    world.catalogue.replace([served, replace(served, version="8/b")])
    assert world.connect(secret).label(some_images(1, seed=1), "key-2").version == "8/b"
    assert world.connect(secret, version="8/b").label(some_images(1, seed=2), "key-3").version == "8/b"
    assert teacher.label(some_images(1, seed=3), "key-4").version == "7"

    world.catalogue.replace([replace(served, version="8/b")])
    for ask in (teacher.card, lambda: teacher.label(some_images(2, seed=4), "key-5")):
        with pytest.raises(
            TeacherChanged, match=r"bought from version 7 .* this server has '8/b'.*distill resume"
        ) as no:
            ask()
        assert no.value.exit_code == 8
    assert teacher.usage().spent == 8, "another version was not paid"
    assert np.array_equal(teacher.label(images, "key-1").values, first.values), "what was paid for is still had"


def test_refusals_say_what_to_do(world: World) -> None:
    secret = world.key()
    with pytest.raises(TeacherRefused, match="GET /v1/teachers lists those here") as caught:
        world.connect(secret, "another").card()
    assert caught.value.code == "teacher_not_found"
    with pytest.raises(TeacherRefused, match="teacher_not_found"):
        world.connect(secret, "another").label(some_images(1), "key-1")
    with pytest.raises(TeacherRefused, match=r"invalid_images: .*\(N, 4, 4, 1\)"):
        world.connect(secret).label(np.zeros((1, 5, 4, 1), np.uint8), "key-1")
    with pytest.raises(TeacherRefused, match="too_many_images"):
        world.connect(secret).label(some_images(65), "key-1")
    with pytest.raises(TeacherRefused, match="invalid_idempotency_key"):
        world.connect(secret).label(some_images(1), "k" * 256)
    assert world.connect(secret).usage().spent == 0


def test_a_wrong_or_revoked_key_points_to_where_it_is_read_from(world: World) -> None:
    secret = world.key()
    for wrong in ("nonsense", secret[:-1] + ("a" if secret[-1] != "a" else "b")):
        for ask in (world.connect(wrong).card, lambda w=wrong: world.connect(w).label(some_images(1), "key-1")):
            with pytest.raises(TeacherRefused, match=r"unauthenticated: .*read from DISTILL_API_KEY"):
                ask()
    revoke_key(world.database, name="ada")
    with pytest.raises(TeacherRefused, match=r"revoked.*DISTILL_API_KEY"):
        world.connect(secret).usage()


@pytest.mark.parametrize("lost", [{1}, {1, 2, 3}])
def test_an_answer_lost_after_its_charge_is_got_without_another(world: World, lost: set[int]) -> None:
    secret, images = world.key(), some_images(6)
    answer = world.connect(secret, lost=lost).label(images, "key-1")
    assert np.array_equal(answer.values, answer_to(images))
    events = list(world.connect(secret).events())
    assert [event.images for event in events if event.kind == "answer"] == [6]
    assert world.connect(secret).usage().spent == 6
    assert world.classifier.batches == [6]  # and nothing was computed twice


def test_a_day_that_is_used_up_ends_at_once_and_names_midnight(world: World) -> None:
    teacher = world.connect(world.key(images_per_day=20))
    assert teacher.card().images_per_request_max == 20, "no larger batch would ever be answered"
    teacher.label(some_images(16), "key-1")
    with pytest.raises(
        TeacherUnavailable,
        match=r"daily_budget_exhausted: 16 images asked for, 4 of 20 per day remain .* left alone until .* "
        r"00:00:0\d UTC.*Nothing was charged",
    ) as caught:
        teacher.label(some_images(16, seed=1), "key-2")
    assert caught.value.charged == "no"
    assert teacher.label(some_images(4, seed=2), "key-3").spent == 20


def test_a_stage_is_bought_at_the_pace_that_the_key_has(world: World, tmp_path: Path) -> None:
    """20 images at 1 per second, in windows of 10 s, within a deadline that is no longer than one pause."""
    teacher = world.connect(world.key(images_per_second=1), deadline_s=11)
    card = teacher.card()
    assert card.images_per_request_max == 10
    started = time.monotonic()
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store, stamina.set_testing(False):
        store.record_stage("pool", some_images(20), images_per_request=images_per_request(256, card))
        buy(store, teacher, "pool", lambda _: None)
        assert store.images_bought() == 20
    assert 9 <= time.monotonic() - started < 25
    assert teacher.usage().spent == 20


def buy(store: PaidLabels, teacher: NativeTeacher, stage: str, heard: Callable[[Answer], None]) -> None:
    buy_stage(store, teacher, stage, card=teacher.card(), requests_in_flight=3, progress=heard)


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2", "label"])
def test_a_stage_bought_through_a_bad_line_adds_up_on_both_sides(
    world: World, tmp_path: Path, disclosure: str
) -> None:
    secret, images, heard = world.key(disclosure=disclosure), some_images(50), list[Answer]()
    teacher = world.connect(secret, lost={2, 3, 5, 8, 9, 12})
    other = world.connect(secret)
    other.label(some_images(4, seed=7), "another-run")
    with closing(PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")) as store:
        store.record_stage("pool", images, images_per_request=8)
        buy(store, teacher, "pool", heard.append)
        labelled = store.labelled("pool")
        audit = audit_run(store.purchases(), store.recorded_keys(), read_log(teacher))
    expected = answer_to(images, disclosure)
    assert np.array_equal(labelled.values, expected, equal_nan=expected.dtype.kind == "f")
    assert audit.faults == ()
    assert (audit.bought, audit.charged_by_server, audit.in_audit_log, audit.spent_by_other_runs) == (50, 50, 50, 4)
    assert audit.is_equal
    assert sum(answer.charged for answer in heard) == 50
