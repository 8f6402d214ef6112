"""What every reader gives: uint8 images_nhwc, their truth, and what could not be read."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]


class DatasetUnavailable(RuntimeError):
    """No place holds the data set, or its files are damaged; the message says where it was looked for."""


@dataclass(frozen=True)
class Skipped:
    """A file that was passed over: its path below the folder that was read, in printable characters, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """images_nhwc uint8 N x H x W x C, truth_n int64 N, and the names that truth indexes.

    ``skipped`` lists files of a folder that are not among the images; whoever reads a folder prints it.
    """

    name: str
    split: Split
    images_nhwc: NDArray[np.uint8]
    truth_n: NDArray[np.int64]
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
