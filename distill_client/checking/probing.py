"""Asking a teacher about eight images in several ways, and what came back; no more than ``IMAGES_ASKED`` in all."""

import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.protocol import Answer, Capabilities, Teacher, Values

IMAGES, ALONE = 8, 4
IMAGES_ASKED = ALONE + 1 + IMAGES + (IMAGES - 1)
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Observed:
    """Rows are float64 N x K, a label's as 1 in its class; 0 where nothing is disclosed. Seconds are of whole calls.

    ``alone``: the first images, one a call. ``again``: the first of them once more. ``together``: all of them, as
    many a call as the teacher takes, calls at once. ``reversed_``: all but the first so, the last one first.
    ``values`` are those of ``together`` as they came.
    """

    alone: NDArray[np.float64]
    again: NDArray[np.float64]
    together: NDArray[np.float64]
    reversed_: NDArray[np.float64]
    values: Values
    images_failed: int
    disclosures: frozenset[tuple[str, str]]
    alone_s: float
    together_s: float
    calls_together: int


def probe(
    teacher: Teacher, card: Capabilities, images_nhwc: Images, per_call: int, keep: Callable[[Answer], object]
) -> Observed:
    """Ask about eight images; ``keep`` hears every answer. Raises what Teacher.label raises."""
    session = _Session(teacher, keep)
    alone, seconds = [], []
    for place in [*range(ALONE), 0]:
        started = time.monotonic()
        alone += session.ask([images_nhwc[place : place + 1]])
        seconds.append(time.monotonic() - started)
    started = time.monotonic()
    together = session.ask(_cut(images_nhwc, per_call))
    together_s = time.monotonic() - started
    reversed_ = session.ask(_cut(images_nhwc[:0:-1], per_call))
    classes = len(card.classes)
    rows = _rows(alone, classes)
    return Observed(
        alone=rows[:ALONE],
        again=rows[ALONE:],
        together=_rows(together, classes),
        reversed_=_rows(reversed_, classes),
        values=np.concatenate([answer.values for answer in together]),
        images_failed=sum(len(answer.failures) for answer in [*alone, *together, *reversed_]),
        disclosures=frozenset((answer.version, answer.disclosure) for answer in [*alone, *together, *reversed_]),
        alone_s=statistics.median(seconds),
        together_s=together_s,
        calls_together=len(together),
    )


class _Session:
    def __init__(self, teacher: Teacher, keep: Callable[[Answer], object]) -> None:
        self._teacher = teacher
        self._keep = keep

    def ask(self, batches: Sequence[Images]) -> list[Answer]:
        """One call for each batch, all at once; answers in the batches' order."""
        with ThreadPoolExecutor(len(batches)) as threads:
            futures = [threads.submit(self._teacher.label, batch, secrets.token_hex(16)) for batch in batches]
        answers = []
        for future in futures:  # what was paid for is kept, whatever became of the others
            if future.exception() is None:
                self._keep(future.result())
        for batch, future in zip(batches, futures, strict=True):
            answer = future.result()
            if len(answer.values) != len(batch):
                raise TeacherProtocolError(f"{len(batch)} images were sent, {len(answer.values)} answers came")
            answers.append(answer)
        return answers


def _cut(images_nhwc: Images, per_call: int) -> list[Images]:
    return [images_nhwc[start : start + per_call] for start in range(0, len(images_nhwc), per_call)]


def _rows(answers: Sequence[Answer], classes: int) -> NDArray[np.float64]:
    found = []
    for answer in answers:
        if answer.values.ndim == 1:
            rows_nk = np.zeros((len(answer.values), classes))
            known_n = (answer.values >= 0) & (answer.values < classes)
            rows_nk[np.flatnonzero(known_n), answer.values[known_n]] = 1
        elif answer.values.shape[1:] == (classes,):
            rows_nk = np.nan_to_num(answer.values.astype(np.float64), nan=0.0)
        else:
            raise TeacherProtocolError(f"an answer has shape {answer.values.shape}; there are {classes} classes")
        found.append(rows_nk)
    return np.concatenate(found)
