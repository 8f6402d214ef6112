import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distill_client.errors import (
    BudgetExhausted,
    ConfigError,
    RunStoreError,
    TeacherError,
    TeacherProtocolError,
    TeacherUnavailable,
)
from distill_client.teachers.paid.buying import buy_stage, images_per_request, refuse_test_images
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import Answer
from shared.wire.images import encode_npy, image_digests
from tests.distill_client.fakes import FakeTeacher, answer_to


def some_images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), np.uint8)


def buy(store: PaidLabels, teacher: FakeTeacher, *, at_once: int = 1, stage: str = "pool") -> list[Answer]:
    """Buy a stage; what the progress has heard."""
    heard: list[Answer] = []
    buy_stage(store, teacher, stage, card=teacher.card(), requests_in_flight=at_once, progress=heard.append)
    return heard


@pytest.fixture
def open_store(tmp_path: Path) -> Callable[[], PaidLabels]:
    return lambda: PaidLabels(tmp_path / "answers.sqlite", run_id="run-1")


@pytest.fixture
def store(open_store: Callable[[], PaidLabels]) -> Iterator[PaidLabels]:
    with closing(open_store()) as opened:
        yield opened


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_every_batch_is_bought_once_and_every_answer_heard(store: PaidLabels, at_once: int) -> None:
    images, teacher = some_images(50), FakeTeacher()
    store.record_stage("pool", images, images_per_request=8)
    heard = buy(store, teacher, at_once=at_once)
    assert sorted(answer.charged for answer in heard) == [2, 8, 8, 8, 8, 8, 8]
    assert teacher.spent == store.images_bought() == 50
    assert np.array_equal(store.labelled("pool").values, answer_to(images))
    assert buy(store, teacher, at_once=at_once) == []
    assert len(teacher.asked) == 7


@pytest.mark.parametrize("at_once", [1, 3])
def test_never_more_requests_in_flight_than_allowed(store: PaidLabels, at_once: int) -> None:
    teacher = FakeTeacher(hold=threading.Event())
    assert teacher.hold is not None
    store.record_stage("pool", some_images(40), images_per_request=4)

    def release() -> None:
        """Let go once the client has sent all it will send, and a little after that."""
        deadline = time.monotonic() + 10
        while teacher.in_flight < at_once and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert teacher.hold is not None
        teacher.hold.set()

    thread = threading.Thread(target=release)
    thread.start()
    buy(store, teacher, at_once=at_once)
    thread.join()
    assert teacher.in_flight_most == at_once
    assert teacher.spent == 40


class HoldingBack(FakeTeacher):
    """The first call fails at once; the others are answered only after that."""

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        with self._lock:
            is_first = not self.in_flight_most
            self.in_flight_most += 1
        if is_first:
            assert self.others_came.wait(10)
            self.first_failed.set()
            raise TeacherUnavailable("the first is lost")
        if self.in_flight_most == 3:
            self.others_came.set()
        assert self.first_failed.wait(10)
        time.sleep(0.05)
        return super().label(images_nhwc, idempotency_key)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.first_failed, self.others_came = threading.Event(), threading.Event()


def test_after_a_failure_nothing_more_is_sent_and_answers_in_flight_are_kept(store: PaidLabels) -> None:
    teacher = HoldingBack()
    store.record_stage("pool", some_images(40), images_per_request=4)
    with pytest.raises(TeacherUnavailable, match="the first is lost"):
        buy(store, teacher, at_once=3)
    assert len(teacher.asked) == 2
    assert teacher.spent == store.images_bought() == 8
    assert len(store.unanswered("pool")) == 8
    buy(store, teacher)
    assert teacher.spent == 40


@pytest.mark.parametrize("at_once", [1, 2])
def test_interrupted_at_every_point_nothing_is_paid_twice(tmp_path: Path, at_once: int) -> None:
    """Two stages with an overlap; lost before or after the charge at every call; reopened with another cut size."""
    pool, mixup = some_images(11, 1), some_images(14, 2)
    mixup[3:6] = pool[2:5]
    mixup[9] = mixup[1]
    distinct = len(set(image_digests(np.concatenate([pool, mixup]))))
    calls = 3 + 3
    for lost_at in range(1, calls + 1):
        for is_charged in (False, True):
            lost = {lost_at}
            teacher = FakeTeacher(fails_after=lost) if is_charged else FakeTeacher(fails_before=lost)
            path = tmp_path / f"{lost_at}-{is_charged}.sqlite"
            images_per_request, attempts = 4, 0
            while True:
                attempts += 1
                try:
                    with closing(PaidLabels(path, run_id="run-1")) as store:
                        for stage, images in (("pool", pool), ("mixup", mixup)):
                            if not store.has_stage(stage):
                                store.record_stage(stage, images, images_per_request=images_per_request)
                            buy(store, teacher, stage=stage, at_once=at_once)
                        labelled = [store.labelled(stage).values for stage in ("pool", "mixup")]
                        bought = store.images_bought()
                    break
                except TeacherUnavailable:
                    images_per_request = 3
            assert attempts == 2
            assert teacher.spent == bought == distinct
            key_of: dict[str, set[str]] = {}
            for key, input_digest in teacher.asked:
                key_of.setdefault(input_digest, set()).add(key)
            assert all(len(keys) == 1 for keys in key_of.values())
            in_batches = {key: digest for key, digest in teacher.asked}
            assert len(in_batches) == len([event for event in teacher.log if event.kind == "answer"])
            assert np.array_equal(labelled[0], answer_to(pool))
            assert np.array_equal(labelled[1], answer_to(mixup))


def test_a_budget_that_ends_in_a_stage_keeps_what_was_bought(store: PaidLabels) -> None:
    teacher = FakeTeacher(budget=10)
    store.record_stage("pool", some_images(16), images_per_request=4)
    with pytest.raises(BudgetExhausted) as caught:
        buy(store, teacher)
    assert (caught.value.granted, caught.value.spent) == (10, 8)
    assert store.images_bought() == 8
    teacher.append(kind="grant", images=6)
    buy(store, teacher)
    assert teacher.spent == 16


def test_an_unavailable_teacher_leaves_the_stage_recorded(store: PaidLabels) -> None:
    teacher = FakeTeacher(is_unavailable=True)
    store.record_stage("pool", some_images(8), images_per_request=4)
    with pytest.raises(TeacherUnavailable):
        buy(store, teacher)
    assert len(teacher.asked) == 1
    assert len(store.unanswered("pool")) == 2


class Misanswering(FakeTeacher):
    """Charges, then answers as ``distort`` says."""

    distort: Callable[[Answer], Answer]

    def label(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> Answer:
        return self.distort(super().label(images_nhwc, idempotency_key))


@pytest.mark.parametrize(
    ("distort", "error", "message"),
    [
        (lambda a: replace(a, values=a.values[:-1]), TeacherProtocolError, r"4 images of 10 classes has shape \(3, "),
        (lambda a: replace(a, values=a.values[:, :9]), TeacherProtocolError, r"10 classes has shape \(4, 9\)"),
        (lambda a: replace(a, values=a.values[..., None]), TeacherProtocolError, "shape"),
        (lambda a: replace(a, values=a.values * 0), TeacherProtocolError, "no class at all"),
        (lambda a: replace(a, values=np.array([0, 1, 2, 10])), TeacherProtocolError, "labels are from 0 to 10"),
        (lambda a: replace(a, values=np.array([0, -1, 2, 3])), TeacherProtocolError, "labels are from -1"),
        (lambda a: replace(a, version="2"), RunStoreError, "version 1 .* answered with version 2"),
        (lambda a: replace(a, disclosure="label"), RunStoreError, "disclosure probabilities.*disclosure label"),
        (
            lambda a: replace(a, disclosure="probabilities;decimals=6"),
            RunStoreError,
            "version 1 and disclosure probabilities;decimals=6. .* never mixed: ask the teacher's owner",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_not_kept(
    store: PaidLabels, distort: Callable[[Answer], Answer], error: type[Exception], message: str
) -> None:
    teacher = Misanswering()
    teacher.distort = distort
    store.record_stage("pool", some_images(12), images_per_request=4)
    with pytest.raises(error, match=message):
        buy(store, teacher)
    assert store.images_bought() == 0
    assert len(teacher.asked) == 1


def test_a_short_answer_of_one_batch_does_not_lose_the_others(store: PaidLabels) -> None:
    teacher = FakeTeacher(misanswers={2})
    store.record_stage("pool", some_images(12), images_per_request=4)
    with pytest.raises(TeacherError):
        buy(store, teacher)
    assert store.images_bought() == 4
    buy(store, teacher)
    assert teacher.spent == store.images_bought() == 12


def test_test_images_are_named_before_anything_is_sent() -> None:
    images = some_images(6)
    halves = [images[:3], images[3:]]
    passed = list(refuse_test_images(halves, frozenset(image_digests(some_images(6, seed=9))), "mixup"))
    assert np.array_equal(np.concatenate(passed), images)
    forbidden = frozenset(image_digests(images[4:5]))
    with pytest.raises(ConfigError, match=r"image 4 of stage mixup is in the test set"):
        list(refuse_test_images(halves, forbidden, "mixup"))
    # the same bytes under another shape are another image
    list(refuse_test_images([images.reshape(6, 2, 8, 1)], forbidden, "mixup"))


def test_a_request_holds_what_the_teacher_takes_in_images_and_in_bytes() -> None:
    large = FakeTeacher(image_hwc=(224, 224, 3)).card()  # takes bodies of 32 MiB
    assert images_per_request(256, large) == 222
    assert images_per_request(100, large) == 100
    assert images_per_request(256, FakeTeacher(images_per_request_max=10).card()) == 10
    assert images_per_request(256, FakeTeacher().card()) == 256
    body = len(encode_npy(np.zeros((222, 224, 224, 3), np.uint8)))
    assert body <= large.body_bytes_max < body + 224 * 224 * 3
    with pytest.raises(ConfigError, match="requests of 1024 bytes, and one image of its input has 150528"):
        images_per_request(256, large.model_copy(update={"body_bytes_max": 1024}))
