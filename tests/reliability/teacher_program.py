"""What a fork server runs: the real `teacher`, but that `teacher serve` finds teachers made of numpy.

They answer at once and what they answer can be checked: ``numbers`` gives back the number that an image carries, and
``digits`` scores 28 x 28 images with a fixed matrix.
"""

import os
import resource
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn  # noqa: F401 - and the application, imported before the fork
from numpy.typing import NDArray

import teacher_server.app  # noqa: F401
import teacher_server.teachers.teacher as loading
from shared.wire.contracts import InputSpec
from teacher_server import cli
from teacher_server.teachers.teacher import Teacher
from tests.teacher_server.support import NumbersClassifier, numbers_teacher

_PIXELS, _DIGITS = 28 * 28, 10


class ScoringClassifier:
    """Softmax of 10 fixed linear scores of uint8 N x 28 x 28 x 1; may be slow (seconds per call)."""

    classes = _DIGITS

    def __init__(self, *, seconds: float = 0.0) -> None:
        self._weights = np.random.default_rng(7).normal(0, 1e-3, (_PIXELS, _DIGITS))
        self._seconds = seconds

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 N x 10."""
        time.sleep(self._seconds)
        scores_nk = images_nhwc.reshape(len(images_nhwc), _PIXELS).astype(np.float64) @ self._weights
        exponentials_nk = np.exp(scores_nk - scores_nk.max(axis=1, keepdims=True))
        probabilities_nk: NDArray[np.float32] = exponentials_nk / exponentials_nk.sum(axis=1, keepdims=True)
        return probabilities_nk.astype(np.float32)


def _teachers(_folders: Iterable[Path], **_settings: Any) -> list[Teacher]:
    digits = Teacher(
        name="digits",
        version="1",
        class_names=tuple(map(str, range(_DIGITS))),
        input=InputSpec(height=28, width=28, channels=1),
        classifier=ScoringClassifier(seconds=float(os.environ.get("TEST_SECONDS_PER_CALL", "0"))),
        test_accuracy=None,
        test_dataset=None,
    )
    return [numbers_teacher(NumbersClassifier()), digits]


def main() -> None:
    """`teacher ...` with these teachers; on a disk that takes no more, where TEST_FILE_BYTES_MAX is given."""
    if limit := os.environ.get("TEST_FILE_BYTES_MAX"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing is refused then, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    loading.load_teachers = _teachers  # type: ignore[assignment]  # it is asked with its own arguments
    cli.main()
