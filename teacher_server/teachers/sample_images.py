"""Images to try a network on: the owner's own, or generated ones of several kinds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.wire.contracts import InputSpec
from shared.wire.image_files import decode_image_file
from shared.wire.images import Images, InvalidImages

PIXELS_MAX = 100_000_000
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_sample_images(paths: Sequence[Path], spec: InputSpec) -> Images:
    """Decode image files, and those directly in folders, as the server would; uint8 images_nhwc.

    Raises ValueError naming the file that cannot be used, or when there is none.
    """
    files: list[Path] = []
    for path in paths:
        found = (
            sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
        )
        files += found
    if not files:
        raise ValueError(f"samples: no {', '.join(_SUFFIXES)} file in {', '.join(map(str, paths))}")
    images = []
    for file in files:
        try:
            images.append(decode_image_file(file.read_bytes(), spec, pixels_max=PIXELS_MAX))
        except OSError as error:
            raise ValueError(f"samples: {file} cannot be read ({error.strerror})") from error
        except InvalidImages as error:
            raise ValueError(f"samples: {file}: {error}") from error
    return np.stack(images)


def generated_sample_images(spec: InputSpec) -> Images:
    """Twelve deterministic images: flat, gradients, edges, noise, blobs; uint8 images_nhwc."""
    shape = (spec.height, spec.width, spec.channels)
    generator = np.random.default_rng(0)
    rows, columns, _ = np.indices(shape)
    across, down = columns / max(1, spec.width - 1), rows / max(1, spec.height - 1)
    blob = np.exp(-8 * ((across - 0.4) ** 2 + (down - 0.6) ** 2))
    colour = generator.random((3, 1, 1, spec.channels))
    patterns = [
        np.zeros(shape),
        np.ones(shape),
        np.full(shape, 0.5),
        across,
        down,
        (rows + columns) % 2,
        (rows // 4 + columns // 4) % 2,
        generator.random(shape),
        generator.random(shape) < 0.1,
        blob * colour[0],
        (1 - blob) * colour[1],
        0.5 * across * colour[2] + 0.5 * generator.random(shape),
    ]
    images: Images = np.stack([np.rint(255 * pattern) for pattern in patterns]).astype(np.uint8)
    return images
