"""Images as arrays of numbers, in the layout and on the scale that somebody's model wants."""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from distill_client.teachers.encoding import FileForm
from distill_client.teachers.teacher_file import TeacherFile

Layout = Literal["nhwc", "nchw", "flat"]


class TensorTeacherFile(TeacherFile):
    """The keys of a teacher that takes arrays: ``(byte x scale - mean) / std``, channel by channel, if not bytes."""

    layout: Layout = Field("nhwc", description="order of an array's axes; flat is N x (height x width x channels)")
    scale: float = Field(1 / 255, gt=0, description="of FP32: what a byte from 0 to 255 is multiplied by, first")
    mean: list[float] = Field([0.0], min_length=1, max_length=3, description="of FP32: one for all channels, or each")
    std: list[float] = Field([1.0], min_length=1, max_length=3, description="of FP32: one for all channels, or each")
    encoding: FileForm = Field("png", description="of images that are sent as files")

    @model_validator(mode="after")
    def _fits_the_channels(self) -> Self:
        channels = self.image_hwc[2]
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, channels):
                raise ValueError(
                    f"{key} has {len(numbers)} numbers; allowed are 1, or {channels} of {self.image_size}"
                )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}; allowed are numbers above 0")
        return self

    @property
    def axes_hwc(self) -> tuple[int, ...]:
        """The extents of one image, as it is sent, in ``layout``."""
        height, width, channels = self.sent_hwc
        shapes = {"nhwc": (height, width, channels), "nchw": (channels, height, width)}
        return shapes.get(self.layout, (height * width * channels,))

    def as_bytes(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same bytes in ``layout``."""
        return self._laid_out(images_nhwc)

    def as_fractions(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Float32 in ``layout``, scaled; computed in float64, so that the last bit is the same everywhere."""
        scaled = (images_nhwc.astype(np.float64) * self.scale - np.array(self.mean)) / np.array(self.std)
        return self._laid_out(scaled.astype(np.float32))

    @property
    def enlarging(self) -> str:
        """What is done to images before all else, in words, for the record; empty for nothing."""
        return f"{self.upscaling}, then " if self.upscaling else ""

    @property
    def scaling(self) -> str:
        """What is done to a byte, in words, for the record."""
        mean, std = (", ".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"{self.layout}, (byte x {self.scale:.9g} - [{mean}]) / [{std}]"

    def _laid_out(self, values_nhwc: NDArray[Any]) -> NDArray[Any]:
        moved = values_nhwc.transpose(0, 3, 1, 2) if self.layout == "nchw" else values_nhwc
        return np.ascontiguousarray(moved).reshape(len(values_nhwc), *self.axes_hwc)
