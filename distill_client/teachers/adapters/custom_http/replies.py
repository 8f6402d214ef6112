"""From a described teacher's reply to the answer for each image."""

import json
import math
from collections.abc import Mapping
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.custom_http.file import CustomHttpFile, ItemSignal, ReplyShape
from distill_client.teachers.adapters.json_reply import read_json, shown
from distill_client.teachers.adapters.scores import arrange_by_name, class_by_number, distributions_of
from distill_client.teachers.expressions import find, require_shallow
from distill_client.teachers.protocol import Answer, ImageFailure
from distill_client.teachers.transport import HttpReply
from shared.wire.contracts import Disclosure

_REASON_CHARACTERS = 300


def read_answer(reply: HttpReply, images: int, file: CustomHttpFile) -> Answer:
    """The answer that a reply of success holds for ``images`` images.

    Raises TeacherProtocolError, naming the expression, where it is not as the file describes it.
    """
    reader = _Reader(reply, file)
    parts = reader.parts(images)
    failures = {place: failure for place, part in enumerate(parts) if (failure := reader.failure(part))}
    scores = [{} if place in failures else reader.scores(part) for place, part in enumerate(parts)]
    values_nk = arrange_by_name(scores, file)
    if file.reply.independent:
        values_nk = _scaled_to_one(values_nk)
    _require_whole_rows(values_nk, failures, file)
    values = distributions_of(values_nk, file)
    return Answer(values, file.version, file.answers, charged=images - len(failures), failures=failures)


class _Reader:
    """Finds what the file's expressions say, in one reply."""

    def __init__(self, reply: HttpReply, file: CustomHttpFile) -> None:
        self._where = reply.url
        self._file = file
        self._shape: ReplyShape = file.reply
        self._document: object = read_json(reply)
        try:
            require_shallow(self._document)
        except ValueError as error:
            raise TeacherProtocolError(f"{self._where}: {error}") from error

    def parts(self, images: int) -> list[object]:
        """One part of the reply per image."""
        if self._shape.images is None:
            return [self._document]
        found = self._find("images", self._shape.images, self._document)
        if not isinstance(found, list) or len(found) != images:
            count = f"{len(found)} entries" if isinstance(found, list) else "no list"
            self._misfit("images", self._shape.images, f"{count} for {images} images", self._document)
        return found

    def failure(self, part: object) -> ImageFailure | None:
        """The error that one image has instead of an answer."""
        if self._shape.error is None:
            return None
        found = self._find("error", self._shape.error, part)
        if found is None or found is False or found in ("", [], {}):
            return None
        text = found if isinstance(found, str) else json.dumps(found)
        for signal in (*self._shape.item_signals, ItemSignal()):
            if signal.fits(text):
                return ImageFailure(text[:_REASON_CHARACTERS], signal.retryable, signal.charged)
        raise AssertionError("unreachable: the last signal fits every text")

    def scores(self, part: object) -> dict[str, float]:
        """One image's scores by the teacher's own names, from 0 to 1; empty where it may be, and is."""
        named = self._named(part)
        if not named and not self._shape.may_be_empty:
            raise TeacherProtocolError(
                f"{self._where}: an image has no label (reply.may_be_empty = true would take that for an answer that "
                f"says nothing): {shown(part)}"
            )
        scaled = {name: score / self._shape.scale for name, score in named.items()}
        if self._shape.logits:
            scaled = _softmax(scaled)
        for name, score in scaled.items():
            if not -1e-6 <= score <= 1 + 1e-6:
                raise TeacherProtocolError(
                    f"{self._where}: {name!r} has a score of {score:g} after reply.scale = {self._shape.scale:g}; "
                    "allowed are 0 to 1 (reply.logits says where they are logits)"
                )
        return {
            name: min(max(score, 0.0), 1.0) for name, score in scaled.items() if score >= self._shape.minimum_score
        }

    def _named(self, part: object) -> dict[str, float]:
        shape = self._shape
        if shape.rows is not None:
            rows = self._list("rows", shape.rows, part)
            assert shape.label is not None
            assert shape.score is not None
            labels = [self._find("label", shape.label, row) for row in rows]
            scores = [self._find("score", shape.score, row) for row in rows]
        elif shape.labels is not None:
            assert shape.scores is not None
            labels = self._list("labels", shape.labels, part)
            scores = self._list("scores", shape.scores, part)
        elif shape.scores is not None:
            found = self._find("scores", shape.scores, part)
            if isinstance(found, dict):
                labels, scores = list(found), list(found.values())
            else:
                labels, scores = list(self._file.classes), self._list("scores", shape.scores, part)
        else:
            assert shape.label is not None
            label = self._find("label", shape.label, part)
            labels = [] if label is None else [label]
            scores = [shape.scale] * len(labels)
        return self._together(labels, scores, part)

    def _together(self, labels: list[object], scores: list[object], part: object) -> dict[str, float]:
        if len(labels) != len(scores):
            raise TeacherProtocolError(
                f"{self._where}: {len(labels)} labels with {len(scores)} scores: {shown(part)}"
            )
        named: dict[str, float] = {}
        for label, score in zip(labels, scores, strict=True):
            name = self._name(label, part)
            if isinstance(score, bool) or not isinstance(score, int | float) or not _is_finite(score):
                raise TeacherProtocolError(f"{self._where}: the score of {name!r} is {shown(score)}, not a number")
            if name in named:
                raise TeacherProtocolError(f"{self._where}: {name!r} comes twice: {shown(part)}")
            named[name] = float(score)
        return named

    def _name(self, label: object, part: object) -> str:
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)
        if not isinstance(label, str) or not label:
            raise TeacherProtocolError(
                f"{self._where}: a label is {shown(label)}, not a name or number: {shown(part)}"
            )
        return class_by_number(label, self._file)

    def _list(self, key: str, expression: str, part: object) -> list[object]:
        found = self._find(key, expression, part)
        if found is None and self._shape.may_be_empty:
            return []
        if not isinstance(found, list):
            self._misfit(key, expression, "no list", part)
        return found

    def _find(self, key: str, expression: str, document: object) -> object:
        try:
            return find(expression, document)
        except ValueError as error:
            raise TeacherProtocolError(f"{self._where}: reply.{key}: {error}: {shown(document)}") from error

    def _misfit(self, key: str, expression: str, what: str, document: object) -> NoReturn:
        raise TeacherProtocolError(f"{self._where}: reply.{key} = {expression!r} finds {what} in {shown(document)}")


def _is_finite(score: float) -> bool:
    try:
        return math.isfinite(score)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _softmax(logits: Mapping[str, float]) -> dict[str, float]:
    highest = max(logits.values(), default=0.0)
    powers = {name: math.exp(logit - highest) for name, logit in logits.items()}
    together = sum(powers.values())
    return {name: power / together for name, power in powers.items()}


def _scaled_to_one(values_nk: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows whose scores are more than 1 together, divided by their sum."""
    together_n1 = np.nansum(values_nk, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = values_nk / np.maximum(together_n1, 1.0)
    return scaled


def _require_whole_rows(values_nk: NDArray[np.float64], failures: Mapping[int, object], file: CustomHttpFile) -> None:
    """A row that is not whole would pass for a distribution. Raises TeacherProtocolError, saying what to write."""
    if Disclosure.parse(file.answers).kind != "probabilities":
        return
    unmapped = "look which of its names label_map leaves out; " if file.label_map else ""
    missing_nk = np.isnan(values_nk)
    for place, missing_k in enumerate(missing_nk):
        if place not in failures and missing_k.any() and not missing_k.all():
            named = int((~missing_k).sum())
            raise TeacherProtocolError(
                f"the teacher scored {named} of {len(file.classes)} classes, and answers is 'probabilities'; "
                f'{unmapped}where it leaves classes out, write answers = "top-k:K" with the most it names, '
                f"such as {named}"
            )
