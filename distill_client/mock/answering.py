"""What the mock answers: a function of an image's bytes alone, so that every answer to it is the same."""

import threading
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import ConfigError
from shared.wire.images import image_digests

_STUDENT_PREFIX = "student:"
_DECIMALS = 6


class Answers(Protocol):
    """From uint8 images_nhwc to float32 probabilities N x K; from any thread."""

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Every row for the image in its place."""
        ...


class HashAnswers:
    """Probabilities drawn from the image's digest: one class stands out, and no two images have the same."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Answers."""
        rows = [self._row(digest) for digest in image_digests(images_nhwc)]
        return np.stack(rows).astype(np.float32)

    def _row(self, digest: bytes) -> NDArray[np.float64]:
        logits = 3 * np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(self._classes)
        shares = np.exp(logits - logits.max())
        rounded: NDArray[np.float64] = np.round(shares / shares.sum(), _DECIMALS)
        return rounded


class StudentAnswers:
    """What the student of a finished run says."""

    def __init__(self, folder: Path) -> None:
        """Raises RunStoreError when the run has no student yet."""
        import torch  # seconds that answers by hash need not wait

        from distill_client.contenders import STUDENT
        from distill_client.results import load_contender
        from distill_client.run_folder import open_run
        from distill_client.student.evaluation import predict_probabilities

        run = open_run(folder)
        spec = run.record.teacher.input
        self.classes = tuple(run.record.teacher.classes)
        self.image_hwc = (spec.height, spec.width, spec.channels)
        self._network = load_contender(run, STUDENT, torch.device("cpu"))
        self._predict = predict_probabilities
        self._lock = threading.Lock()

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Answers."""
        with self._lock:
            return np.round(self._predict(self._network, images_nhwc), _DECIMALS).astype(np.float32)


def student_folder(text: str) -> Path | None:
    """The run that ``--answers student:RUN`` names; None for ``hash``. Raises ConfigError."""
    if text.startswith(_STUDENT_PREFIX) and len(text) > len(_STUDENT_PREFIX):
        return Path(text.removeprefix(_STUDENT_PREFIX))
    if text == "hash":
        return None
    raise ConfigError(f"--answers is {text!r}; allowed are hash and student:RUN_FOLDER")
