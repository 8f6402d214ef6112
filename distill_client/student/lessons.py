"""What a student is taught, and how its images come to the device: batch by batch, never all of them as floats."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from distill_client.config import Augmentation, AugmentationConfig, EnsembleConfig
from distill_client.student.ensemble import Ensemble

# On a GPU as many bytes of images stay there for the whole training; more are sent to it batch by batch.
DEVICE_BYTES_MAX = 4 << 30
_ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class Lessons:
    """What a student is taught: rows of images_nhwc uint8, targets_nk float32, and how a batch is varied on the fly.

    ``rows_n`` (int64) says which of the images are taught, all of them without it; the images may be mapped from a
    file and are not copied. A row of targets sums to one: the teacher's answer, or a one-hot label; classes that are
    NaN share what the row lacks of one. The images are the very bytes it answered; ``real_n`` (bool) says which of
    the lessons are of real images, all of them without it.

    ``prior_shift_k`` is added to the logits in training, and only there: by how much the log-frequency of each class
    among the answers differs from what the student shall believe in. ``amplification`` is there where an ensemble is
    to be made of the answers first, and ``ensemble`` once it is made.
    """

    images_nhwc: NDArray[np.uint8]
    targets_nk: NDArray[np.float32]
    augmentation: Augmentation = "none"
    bounds: AugmentationConfig = field(default_factory=AugmentationConfig)
    rows_n: NDArray[np.int64] | None = None
    real_n: NDArray[np.bool_] | None = None
    prior_shift_k: NDArray[np.float32] | None = None
    amplification: EnsembleConfig | None = None
    ensemble: Ensemble | None = None

    def __post_init__(self) -> None:
        images = len(self.images_nhwc) if self.rows_n is None else len(self.rows_n)
        if images != len(self.targets_nk) or images == 0:
            raise ValueError(f"{images} images cannot be learnt from {len(self.targets_nk)} answers")

    def __len__(self) -> int:
        return len(self.targets_nk)

    def gather(self, lessons_n: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of some lessons, by their numbers from 0, as a new array."""
        rows_n = lessons_n if self.rows_n is None else self.rows_n[lessons_n]
        gathered: NDArray[np.uint8] = np.ascontiguousarray(self.images_nhwc[rows_n])
        return gathered

    def image_bytes(self) -> Iterator[bytes]:
        """The bytes of all images in the lessons' order, in pieces."""
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            yield self.gather(np.arange(start, min(start + _ROWS_PER_BLOCK, len(self)))).tobytes()


class LessonImages:
    """Batches of float images_nchw in [0, 1], channels last in memory, on the device of the training."""

    def __init__(self, lessons: Lessons, device: torch.device) -> None:
        self._lessons = lessons
        self._device = device
        self._real_n = None if lessons.real_n is None else torch.from_numpy(lessons.real_n).to(device)
        self._resident: torch.Tensor | None = None
        size = len(lessons) * lessons.images_nhwc[0].nbytes
        if device.type != "cpu" and size <= DEVICE_BYTES_MAX:
            self._resident = torch.from_numpy(lessons.gather(np.arange(len(lessons)))).to(device)

    def batch(self, lessons_n: torch.Tensor) -> torch.Tensor:
        """The images of the lessons with these numbers (int64, on the device)."""
        if self._resident is not None:
            chosen = self._resident.index_select(0, lessons_n)
        else:
            chosen = torch.from_numpy(self._lessons.gather(lessons_n.cpu().numpy())).to(self._device)
        return chosen.permute(0, 3, 1, 2).float().div_(255)

    def are_real(self, lessons_n: torch.Tensor) -> torch.Tensor | None:
        """Which of the lessons with these numbers are of real images (bool, on the device); None where all are."""
        return None if self._real_n is None else self._real_n.index_select(0, lessons_n)
