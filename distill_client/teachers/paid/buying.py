"""Buying a stage: its unanswered batches, a few in flight at a time, each answer kept before the next step."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np

from distill_client.errors import (
    ConfigError,
    RunStoreError,
    TeacherProtocolError,
    TeacherRefused,
    TeacherUnavailable,
)
from distill_client.teachers.paid.store import Batch, PaidLabels
from distill_client.teachers.protocol import Answer, Capabilities, Teacher
from shared.wire.contracts import TeacherCard
from shared.wire.images import Images, image_digests

_NPY_HEADER_BYTES_MAX = 256
HOW_TO_GO_ON = (
    "ask the teacher's owner for what it was (that version served again, that policy by `teacher keys set`), then go "
    "on with `distill resume`; or begin a new run"
)
_ROUNDS_MAX = 5  # that an image is asked for which its teacher leaves out of its answers


def images_per_request(wanted: int, card: TeacherCard) -> int:
    """How many images a batch may have: what is wanted, what the teacher takes, and what fits into a body of its.

    Raises ConfigError when not even one image does.
    """
    image_bytes = card.input.height * card.input.width * card.input.channels
    fitting = (card.body_bytes_max - _NPY_HEADER_BYTES_MAX) // image_bytes
    if fitting < 1:
        raise ConfigError(
            f"teacher {card.name} takes requests of {card.body_bytes_max} bytes, and one image of its input has "
            f"{image_bytes}; its owner must allow more (TEACHER_BODY_BYTES_MAX)"
        )
    return min(wanted, card.images_per_request_max, fitting)


def refuse_test_images(blocks: Iterable[Images], forbidden: frozenset[bytes], stage: str) -> Iterator[Images]:
    """Hand on a stage's images block by block.

    Raises ConfigError when one of them is in the test set; nothing of the stage must be recorded or sent then.
    """
    passed = 0
    for images_nhwc in blocks:
        for index, digest in enumerate(image_digests(images_nhwc)):
            if digest in forbidden:
                raise ConfigError(
                    f"image {passed + index} of stage {stage} is in the test set (SHA-256 {digest.hex()[:16]}...); "
                    "test images are never sent to the teacher"
                )
        passed += len(images_nhwc)
        yield images_nhwc


def buy_stage(
    store: PaidLabels,
    teacher: Teacher,
    stage: str,
    *,
    card: Capabilities,
    requests_in_flight: int,
    progress: Callable[[Answer], None],
) -> None:
    """Ask for every batch of a recorded stage that has no answer yet; ``card`` is the one that the run began with.

    When a batch fails, no further ones are sent, but the answers of those in flight are kept: they are paid for.
    Images that the teacher did not answer with the rest of their batch are asked for again, a few times.
    Raises what Teacher.label raises, TeacherProtocolError for an answer that nothing can be learnt from, and
    RunStoreError when the teacher is not the one that the run began with any more.
    """
    waiting = store.unanswered(stage)
    rounds = dict.fromkeys(waiting, 1)
    in_flight: dict[Future[Answer], Batch] = {}
    failure: BaseException | None = None
    with _threads(requests_in_flight) as threads:
        while in_flight or (waiting and failure is None):
            while waiting and failure is None and len(in_flight) < requests_in_flight:
                batch = store.read_batch(waiting.pop(0))
                future = threads.submit(teacher.label, batch.images_nhwc, batch.idempotency_key)
                in_flight[future] = batch
            done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
            for future in done:
                batch = in_flight.pop(future)
                if error := future.exception() or _misfit(future.result(), len(batch.images_nhwc), card):
                    failure = failure or error
                    continue
                answer, left = store.keep_answer(batch.number, future.result())
                progress(answer)
                for number in left:
                    rounds[number] = rounds[batch.number] + 1
                    failure = failure or _given_up(answer, rounds[number])
                waiting += left
    if failure is not None:
        raise failure


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that waits for its requests at the end, but not when the person at the terminal wants out.

    A request may be waiting for a dead teacher; left alone it is lost, and asked for again when the run is resumed.
    """
    threads = ThreadPoolExecutor(count, thread_name_prefix="buying")
    try:
        yield threads
    except KeyboardInterrupt:
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        threads.shutdown(cancel_futures=True)
        raise
    threads.shutdown()


def _given_up(answer: Answer, rounds: int) -> Exception | None:
    """Why images without an answer are not asked for again; None when they are."""
    reasons = [failure.reason for failure in answer.failures.values() if not failure.retryable]
    if reasons:
        return TeacherRefused(f"{len(reasons)} images of a batch were refused: {reasons[0]}", code="images_refused")
    if rounds > _ROUNDS_MAX:
        found = next(iter(answer.failures.values())).reason
        return TeacherUnavailable(f"{len(answer.failures)} images had no answer {_ROUNDS_MAX} times: {found}")
    return None


def _misfit(answer: Answer, images: int, card: Capabilities) -> Exception | None:
    """Why an answer cannot be kept as one of this run, None when it can."""
    if (answer.version, answer.disclosure) != (card.version, card.disclosure):
        return RunStoreError(
            f"the run began with version {card.version} and disclosure {card.disclosure}; teacher {card.name} has "
            f"answered with version {answer.version} and disclosure {answer.disclosure}. That answer is not kept, as "
            f"those of two policies or versions are never mixed: {HOW_TO_GO_ON}"
        )
    values, classes = answer.values, len(card.classes)
    if values.shape not in ((images,), (images, classes)):
        return TeacherProtocolError(f"the answer to {images} images of {classes} classes has shape {values.shape}")
    values, lowest = answer.answered_values, 0 if answer.is_counted else -1  # -1: a class that is none of ours
    if values.ndim == 1 and not ((values >= lowest) & (values < classes)).all():
        return TeacherProtocolError(f"labels are from {values.min()} to {values.max()}; the teacher has {classes}")
    if values.ndim == 2 and not (np.isnan(values).any(axis=1) | (values.sum(axis=1) > 0)).all():
        return TeacherProtocolError("an answer gives probability to no class at all")
    return None
