"""From a teacher's scores, by name or in order, to an answer's values in our classes."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.json_reply import shown
from distill_client.teachers.protocol import Values
from distill_client.teachers.teacher_file import TeacherFile
from shared.wire.contracts import Disclosure

# What a row of a distribution may have over 1, class by class: numbers that were rounded to two decimals.
_ROUNDING = 0.005


def probabilities_of(scores: Sequence[Mapping[str, float]], file: TeacherFile) -> Values:
    """Each image's scores by class name, as float32 N x K, NaN for what was not named; or int64 N of the best ones.

    Raises TeacherProtocolError for a name that is none of the file's classes, or a score outside 0 to 1.
    """
    return distributions_of(arrange_by_name(scores, file), file)


def arrange_by_name(scores: Sequence[Mapping[str, float]], file: TeacherFile) -> NDArray[np.float64]:
    """Each image's scores by our classes, from theirs by the file's label map, as float64 N x K.

    NaN for what was not named, and all over the row of an image whose names are all rejected. Raises
    TeacherProtocolError for a name that is none of the file's classes, where that is an error.
    """
    index = {name: position for position, name in enumerate(file.classes)}
    values_nk = np.full((len(scores), len(index)), np.nan)
    for row, named in enumerate(scores):
        for name, score in file.labels.scores_of_ours(named).items():
            if not math.isfinite(score):
                raise TeacherProtocolError(f"the teacher gave {name!r} a score of {score}; allowed are 0 to 1")
            values_nk[row, index[name]] = score
    return values_nk


def require_some_number(values_nk: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same scores. A model may fail at one image; at all of a call's, it is the model that is broken.

    Raises TeacherProtocolError when no row is finite.
    """
    if not np.isfinite(values_nk).any(axis=1).any():
        raise TeacherProtocolError("the teacher answered with no finite number at all")
    return values_nk


def distributions_of(values_nk: NDArray[np.float64], file: TeacherFile, *, are_logits: bool = False) -> Values:
    """Scores in the order of the file's classes, as an answer's values; logits go through softmax first.

    A row with a number that is infinite, or NaN all over, was paid for and says nothing: it is all NaN, or -1.
    Raises TeacherProtocolError for what is no distribution.
    """
    values_nk = values_nk.copy()
    values_nk[np.isinf(values_nk).any(axis=1)] = np.nan
    if are_logits:
        values_nk = _softmax(values_nk)
    outside = (values_nk < 0) | (values_nk > 1 + 1e-6)
    if outside.any():
        found = values_nk[outside][0]
        raise TeacherProtocolError(
            f"the teacher gave {_name_of(found, values_nk, file)} a score of {found:g}; allowed are 0 to 1 (the "
            "teacher's file must say where they are logits)"
        )
    together = np.nansum(values_nk, axis=1).max()
    if together > 1 + max(1e-3, _ROUNDING * len(file.classes)):
        raise TeacherProtocolError(
            f"the teacher gave the classes of one image scores of {together:g} together; allowed is 1"
        )
    disclosed_nk: Values = np.minimum(values_nk, 1.0).astype(np.float32)
    if Disclosure.parse(file.answers).kind != "label":
        return disclosed_nk
    known = np.where(np.isnan(values_nk), -1.0, values_nk)
    labels_n: Values = np.where(known.max(axis=1) < 0, -1, known.argmax(axis=1)).astype(np.int64)
    return labels_n


def named_scores(where: str, pairs: Iterable[tuple[object, object]], file: TeacherFile) -> dict[str, float]:
    """One image's scores by name, of whatever a reply held; ``where`` is for messages.

    Raises TeacherProtocolError for names that are no texts, scores that are no numbers, and a name that comes twice.
    """
    scores: dict[str, float] = {}
    for name, score in pairs:
        if not isinstance(name, str) or type(score) not in (int, float):
            raise TeacherProtocolError(f"{where}: expected names with scores, got {shown((name, score))}")
        ours = class_by_number(name, file)
        if ours in scores:
            raise TeacherProtocolError(f"{where}: class {shown(ours)} comes twice")
        try:
            scores[ours] = float(score)  # type: ignore[arg-type]  # int or float, as was asked above
        except OverflowError as error:  # an integer of hundreds of digits
            raise TeacherProtocolError(f"{where}: the score of {shown(name)} is too large for a number") from error
    return scores


def require_all_named(scores: Sequence[Mapping[str, float]], file: TeacherFile) -> None:
    """Refuse a row with fewer classes than the file says are disclosed, which would pass for a cut-off.

    Raises TeacherProtocolError that says what to write into the file.
    """
    disclosed, classes = Disclosure.parse(file.answers), len(file.classes)
    wanted = {"probabilities": classes, "top-k": min(disclosed.k, classes), "label": 1}[disclosed.kind]
    for named in scores:
        if len(named) < wanted:
            raise TeacherProtocolError(
                f"the teacher named {len(named)} classes; answers = {file.answers!r} of {classes} classes means "
                f'{wanted}; where it never names more, write answers = "top-k:{max(1, len(named))}"'
            )


def class_by_number(name: str, file: TeacherFile) -> str:
    """A name such as LABEL_3, or 3 alone, that a model without names gives, as the class in that place.

    A name that is one of the classes stays what it is, and so does any other name.
    """
    found = None if name in file.classes or name in file.labels else re.fullmatch(r"(?:LABEL_)?([0-9]{1,6})", name)
    return file.classes[int(found[1])] if found and int(found[1]) < len(file.classes) else name


def _softmax(logits_nk: NDArray[np.float64]) -> NDArray[np.float64]:
    """Row by row; a row with a NaN is all NaN."""
    shifted = np.exp(logits_nk - logits_nk.max(axis=1, keepdims=True))
    scaled: NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return scaled


def _name_of(score: float, values_nk: NDArray[np.float64], file: TeacherFile) -> str:
    return repr(file.classes[int(np.argwhere(values_nk == score)[0][1])])
