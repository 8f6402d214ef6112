"""Classifiers: uint8 images in, float32 probabilities out, every row returned to its owner in order."""

import threading
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from teacher_server.teachers.bundle import Bundle, choose_device, load_network
from teacher_server.teachers.manifest import InputTable


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


class Preprocessing:
    """uint8 images_nhwc to the float32 images_nchw a network takes: scaled to 0..1, then (x - mean) / std."""

    def __init__(self, spec: InputTable, device: torch.device) -> None:
        self._mean_c = torch.tensor(spec.mean, device=device) * 255
        self._std_c = torch.tensor(spec.std, device=device) * 255

    def __call__(self, images_nhwc: torch.Tensor) -> torch.Tensor:
        """Scale a batch; both are on the same device."""
        # A permuted view keeps the channels-last strides, which the convolutions are faster on; never .contiguous().
        return images_nhwc.float().sub_(self._mean_c).div_(self._std_c).permute(0, 3, 1, 2)


class TorchClassifier:
    """A bundle's network on one device.

    Calls are serialised by a lock: one forward already uses every core (or the whole GPU) it may use.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", rows_per_batch: int = 256) -> None:
        if rows_per_batch < 1:
            raise ValueError(f"rows_per_batch is {rows_per_batch}; allowed is 1 or more")
        self._device = choose_device(device)
        if self._device.type == "cuda":
            # TF32 would let a row's answer depend on the batch it came in by far more than the 1e-5 we promise.
            torch.backends.cudnn.allow_tf32 = False
        self._network = load_network(bundle, self._device)
        spec = bundle.manifest.input
        self._preprocessing = Preprocessing(spec, self._device)
        self._image_shape = (spec.height, spec.width, spec.channels)
        self._rows_per_batch = rows_per_batch
        self._lock = threading.Lock()
        self._name = bundle.manifest.name
        self._classes = len(bundle.manifest.classes)

    @property
    def classes(self) -> int:
        """How many classes there are, K."""
        return self._classes

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """probabilities_nk, float32 N x K, of uint8 N x height x width x channels images.

        Raises ValueError for images of another shape or dtype, ClassifierFault when a row is not finite.
        """
        if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != self._image_shape:
            found, allowed = f"{images_nhwc.dtype} {images_nhwc.shape}", ", ".join(map(str, self._image_shape))
            raise ValueError(f"images are {found}; allowed is uint8 (N, {allowed})")
        probabilities_nk = np.empty((len(images_nhwc), self._classes), np.float32)
        for start in range(0, len(images_nhwc), self._rows_per_batch):
            rows = slice(start, start + self._rows_per_batch)
            with self._lock:  # taken per slice, so that a small request need not wait for all of a large one
                probabilities_nk[rows] = self._forward(images_nhwc[rows])
        faulty = np.flatnonzero(~np.isfinite(probabilities_nk).all(axis=1))
        if len(faulty):
            raise ClassifierFault(
                f"teacher {self._name}: {len(faulty)} rows are not finite, the first of them row {faulty[0]}"
            )
        return probabilities_nk

    def warm(self) -> None:
        """Answer for one image and for a full batch, so that no caller pays for first-call set-up."""
        for rows in {1, self._rows_per_batch}:
            self.probabilities(np.zeros((rows, *self._image_shape), np.uint8))

    def _forward(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            # torch.tensor copies, which suits the read-only view of a request's body; strides other than C order
            # would survive the copy and choose other, slower kernels
            images_nchw = self._preprocessing(torch.tensor(np.ascontiguousarray(images_nhwc)).to(self._device))
            probabilities_nk = torch.softmax(self._network(images_nchw), dim=1, dtype=torch.float32)
            result: NDArray[np.float32] = probabilities_nk.cpu().numpy()
            return result
