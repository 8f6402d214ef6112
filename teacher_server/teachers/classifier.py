"""Classifiers: uint8 images in, float32 probabilities out, every row returned to its owner in order."""

import threading
from collections.abc import Collection
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from teacher_server.teachers.bundle import Bundle
from teacher_server.teachers.forward import BatchRows, Forward, load_forward
from teacher_server.teachers.manifest import BundleManifest

ROWS_PER_BATCH_MAX = 256
# What one forward may hold in memory grows with the pixels of its batch: 64x64 images go 256 at a time, 224x224 41.
PIXELS_PER_BATCH = {"cpu": 2**21, "cuda": 2**24}
SUM_TOLERANCE = 1e-3  # how far a row of a network's own probabilities may be from summing to one


class Classifier(Protocol):
    """What the labelling path needs of a teacher; may be called from several threads at once."""

    @property
    def classes(self) -> int:
        """How many classes there are, K."""
        ...

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """probabilities_nk, float32 N x K, of uint8 N x H x W x C images; N may be zero."""
        ...


class ClassifierFault(RuntimeError):
    """The network gave something that is not a probability; nothing of that batch may be disclosed."""


class NetworkClassifier:
    """A network on one device.

    Calls are serialised by a lock: one forward already uses every core (or the whole GPU) it may use.
    """

    def __init__(
        self, forward: Forward, manifest: BundleManifest, *, rows_per_batch: int = ROWS_PER_BATCH_MAX
    ) -> None:
        if rows_per_batch < 1:
            raise ValueError(f"rows_per_batch is {rows_per_batch}; allowed is 1 or more")
        self._forward = forward
        self._fewest = forward.rows.fewest
        self._rows_per_batch = max(self._fewest, min(rows_per_batch, forward.rows.most or rows_per_batch))
        spec = manifest.input
        self._image_shape = (spec.height, spec.width, spec.channels)
        self._lock = threading.Lock()
        self._name = manifest.name
        self._classes = len(manifest.classes)

    @property
    def classes(self) -> int:
        """How many classes there are, K."""
        return self._classes

    @property
    def rows(self) -> BatchRows:
        """How many rows the network takes at once."""
        return self._forward.rows

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """probabilities_nk, float32 N x K, of uint8 N x height x width x channels images.

        Raises ValueError for images of another shape or dtype, ClassifierFault when a row is no distribution.
        """
        probabilities_nk = self.outputs(images_nhwc)
        wrong = np.flatnonzero(~are_distributions(probabilities_nk))
        if len(wrong):
            raise ClassifierFault(
                f"teacher {self._name}: {len(wrong)} rows are no probabilities (negative, or not summing to one), "
                f"the first of them row {wrong[0]}"
            )
        return probabilities_nk

    def outputs(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What ``Forward`` gives for the images, float32 N x K; for looking at a network that is not known yet.

        Raises ValueError for images of another shape or dtype, ClassifierFault when a row is not finite.
        """
        if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != self._image_shape:
            found, allowed = f"{images_nhwc.dtype} {images_nhwc.shape}", ", ".join(map(str, self._image_shape))
            raise ValueError(f"images are {found}; allowed is uint8 (N, {allowed})")
        outputs_nk = np.empty((len(images_nhwc), self._classes), np.float32)
        for start in range(0, len(images_nhwc), self._rows_per_batch):
            rows = slice(start, start + self._rows_per_batch)
            with self._lock:  # taken per slice, so that a small request need not wait for all of a large one
                outputs_nk[rows] = self._answers(images_nhwc[rows])
        faulty = np.flatnonzero(~np.isfinite(outputs_nk).all(axis=1))
        if len(faulty):
            raise ClassifierFault(
                f"teacher {self._name}: {len(faulty)} rows are not finite, the first of them row {faulty[0]}"
            )
        return outputs_nk

    def warm(self) -> None:
        """Answer for one image and for a full batch, so that no caller pays for first-call set-up."""
        for rows in {1, self._rows_per_batch}:
            self.probabilities(np.zeros((rows, *self._image_shape), np.uint8))

    def _answers(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One forward; too few rows for the network are filled up with the last one, whose answers are dropped."""
        lacking = self._fewest - len(images_nhwc)
        if lacking > 0:
            images_nhwc = np.concatenate([images_nhwc, np.repeat(images_nhwc[-1:], lacking, axis=0)])
        answers_nk = self._forward(images_nhwc)
        return answers_nk[: len(answers_nk) - lacking] if lacking > 0 else answers_nk


def are_distributions(rows_nk: NDArray[np.float32], tolerance: float = SUM_TOLERANCE) -> NDArray[np.bool_]:
    """For each row, whether it is non-negative and sums to one within ``tolerance``."""
    sums_n = rows_nk.sum(axis=1, dtype=np.float64)
    result: NDArray[np.bool_] = (rows_nk >= 0).all(axis=1) & (np.abs(sums_n - 1) <= tolerance)
    return result


def load_classifier(
    bundle: Bundle,
    device: str = "cpu",
    *,
    rows_per_batch: int | None = None,
    trusted_networks: Collection[str] = (),
    content: bytes | None = None,
) -> NetworkClassifier:
    """Load a bundle's network, of whichever format, as a classifier on ``device``.

    ``rows_per_batch`` is chosen by the size of the images, where it is not given. ``content`` stands for the weights
    file of a bundle that is not written yet. Raises BundleError, and ValueError for a device this machine does not
    have.
    """
    forward = load_forward(bundle, device, trusted_networks=trusted_networks, content=content)
    rows = suitable_rows(bundle.manifest, device) if rows_per_batch is None else rows_per_batch
    return NetworkClassifier(forward, bundle.manifest, rows_per_batch=rows)


def suitable_rows(manifest: BundleManifest, device: str) -> int:
    """How many images of this size go through a network at once on ``device``; at least one."""
    pixels = PIXELS_PER_BATCH["cuda" if device.startswith("cuda") else "cpu"]
    return max(1, min(ROWS_PER_BATCH_MAX, pixels // (manifest.input.height * manifest.input.width)))
