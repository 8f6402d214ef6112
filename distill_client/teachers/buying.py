"""Buying a stage: its unanswered batches, a few in flight at a time, each answer kept before the next step."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from distill_client.errors import ConfigError
from distill_client.teachers.protocol import Answer, Teacher
from distill_client.teachers.store import PaidLabels
from shared.wire.images import Images, image_digests


def refuse_test_images(images_nhwc: Images, forbidden: frozenset[bytes], stage: str) -> None:
    """Raise ConfigError when one of the images is in the test set; nothing of the stage is recorded or sent then."""
    for index, digest in enumerate(image_digests(images_nhwc)):
        if digest in forbidden:
            raise ConfigError(
                f"image {index} of stage {stage} is in the test set (SHA-256 {digest.hex()[:16]}...); "
                "test images are never sent to the teacher"
            )


def buy_stage(
    store: PaidLabels,
    teacher: Teacher,
    stage: str,
    *,
    requests_in_flight: int,
    progress: Callable[[Answer], None],
) -> None:
    """Ask for every batch of a recorded stage that has no answer yet.

    When a batch fails, no further ones are sent, but the answers of those in flight are kept: they are paid for.
    Raises what Teacher.label raises.
    """
    waiting = store.unanswered(stage)
    in_flight: dict[Future[Answer], int] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(requests_in_flight, thread_name_prefix="buying") as threads:
        while in_flight or (waiting and failure is None):
            while waiting and failure is None and len(in_flight) < requests_in_flight:
                batch = store.read_batch(waiting.pop(0))
                future = threads.submit(teacher.label, batch.images_nhwc, batch.idempotency_key)
                in_flight[future] = batch.number
            done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
            for future in done:
                number = in_flight.pop(future)
                if error := future.exception():
                    failure = failure or error
                    continue
                store.keep_answer(number, future.result())
                progress(future.result())
    if failure is not None:
        raise failure
