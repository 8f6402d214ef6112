"""What is kept of each image, packed: enough for later questions (repeats, near-repeats, coverage), not the image."""

import numpy as np
from numpy.typing import NDArray

from shared.wire.images import Images

# 32 bytes SHA-256, 8 bytes difference hash, class index of the largest probability, that probability.
FINGERPRINT = np.dtype([("digest", "u1", (32,)), ("dhash", "<u8"), ("top_class", "<u2"), ("confidence", "<f4")])

# Of grey values 0..255: far above float32's rounding, which would else set bits in areas of one colour.
_RISE_MIN = 0.01


def pack_fingerprints(images_nhwc: Images, digests: list[bytes], probabilities_nk: NDArray[np.float32]) -> bytes:
    """One FINGERPRINT record per image, in order, as bytes; read back with ``numpy.frombuffer``."""
    records = np.zeros(len(images_nhwc), FINGERPRINT)
    records["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    records["dhash"] = difference_hashes(images_nhwc)
    records["top_class"] = probabilities_nk.argmax(axis=1)
    records["confidence"] = probabilities_nk.max(axis=1)
    return records.tobytes()


def difference_hashes(images_nhwc: Images) -> NDArray[np.uint64]:
    """64-bit dHash per image: is each cell of an 8 x 9 grid of mean grey values darker than its right neighbour?

    Images that differ by a little noise or a rescaling have hashes that differ in few bits.
    """
    grey = images_nhwc.astype(np.float32).mean(axis=3)
    rows, columns = _cell_means(grey.shape[1], 8), _cell_means(grey.shape[2], 9)
    cells = rows @ grey @ columns.T
    bits = (cells[:, :, 1:] - cells[:, :, :-1] > _RISE_MIN).reshape(len(grey), 64)
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _cell_means(length: int, cells: int) -> NDArray[np.float32]:
    """A cells x length matrix that averages over equal, possibly fractional, stretches of an axis."""
    edges = np.linspace(0, length, cells + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    positions = np.arange(length)[None, :]
    overlap = np.clip(np.minimum(ends, positions + 1) - np.maximum(starts, positions), 0, None)
    means: NDArray[np.float32] = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return means
