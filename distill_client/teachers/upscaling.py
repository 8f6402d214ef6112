"""Enlarging images for a teacher that takes none below a size: written down, for it changes what is asked."""

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Method = Literal["nearest", "bicubic"]


@dataclass(frozen=True)
class Upscaling:
    """To ``height`` x ``width``; where method is nearest, each pixel is repeated ``factor`` times both ways."""

    height: int
    width: int
    method: Method
    factor: int

    @classmethod
    def to_reach(cls, height: int, width: int, smallest: tuple[int, int], method: Method) -> Self | None:
        """What brings images of ``height`` x ``width`` to ``smallest`` or more, in proportion; None if they are that.

        ``nearest`` repeats pixels by the smallest whole factor that suffices, so that nothing is lost or invented;
        ``bicubic`` comes as near to ``smallest`` as it can.
        """
        ratio = max(smallest[0] / height, smallest[1] / width)
        if ratio <= 1:
            return None
        if method == "nearest":
            factor = math.ceil(ratio)
            return cls(height * factor, width * factor, method, factor)
        wanted = (max(smallest[0], round(height * ratio)), max(smallest[1], round(width * ratio)))
        return cls(*wanted, method, 0)

    def __str__(self) -> str:
        how = f"each pixel repeated {self.factor} times" if self.method == "nearest" else "bicubic"
        return f"enlarged to {self.height}x{self.width} ({how})"

    def apply(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The uint8 images_nhwc at the larger size."""
        if self.method == "nearest":
            return images_nhwc.repeat(self.factor, axis=1).repeat(self.factor, axis=2)
        enlarged = np.empty((len(images_nhwc), self.height, self.width, images_nhwc.shape[3]), np.uint8)
        for place, image_hwc in enumerate(images_nhwc):
            pixels = image_hwc[:, :, 0] if image_hwc.shape[2] == 1 else image_hwc
            resized = Image.fromarray(pixels).resize((self.width, self.height), Image.Resampling.BICUBIC)
            enlarged[place] = np.asarray(resized, np.uint8).reshape(enlarged.shape[1:])
        return enlarged
