"""uint8 N x H x W x C arrays to bytes and back, and the digests by which both sides speak of the same images."""

import hashlib
import io
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

NPY_MEDIA_TYPE = "application/x-npy"

Images = NDArray[np.uint8]


class InvalidImages(ValueError):
    """Bytes that are not the images they should be; ``index`` is the image at fault, None for the whole batch."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def encode_npy(array: NDArray[np.generic]) -> bytes:
    """Serialise an array in NumPy's ``.npy`` format, version 1.0, C order."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_npy(body: bytes) -> NDArray[np.generic]:
    """Read an ``.npy`` file of plain numbers without copying; the array is read-only.

    The header is believed only after its size is compared with the bytes that came, so a header that promises
    terabytes allocates nothing, and a pickled array is never unpickled.

    Raises InvalidImages when the bytes are not such a file.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise InvalidImages(f"npy format version {version[0]}.{version[1]} is not read; write 1.0 or 2.0")
    except InvalidImages:
        raise
    except Exception as error:  # numpy raises ValueError, SyntaxError, TypeError and others on hostile headers
        raise InvalidImages("the body is not a .npy file: its header cannot be read") from error
    if dtype.hasobject or dtype.kind not in "uif":
        raise InvalidImages(f"dtype {dtype} holds objects or is not numeric; pickled arrays are never read")
    if fortran_order:
        raise InvalidImages("the array is in Fortran order; send C order (numpy.ascontiguousarray)")
    announced, present = math.prod(shape) * dtype.itemsize, len(body) - stream.tell()
    if any(extent < 0 for extent in shape) or announced != present:
        raise InvalidImages(f"shape {shape} of {dtype} needs {announced} bytes of data, the body holds {present}")
    try:
        return np.frombuffer(body, dtype=dtype, offset=stream.tell()).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:  # more dimensions, or larger ones, than numpy has
        raise InvalidImages(f"shape {shape} is not one an array can have") from error


def require_images(array: NDArray[np.generic], *, height: int, width: int, channels: int) -> Images:
    """Return ``array`` as images_nhwc (uint8, N x height x width x channels, N >= 1) or raise InvalidImages."""
    wanted = f"uint8 of shape (N, {height}, {width}, {channels})"
    if array.dtype != np.uint8:
        raise InvalidImages(f"dtype is {array.dtype}, this teacher takes {wanted}")
    if array.ndim != 4 or array.shape[1:] != (height, width, channels):
        raise InvalidImages(f"shape is {array.shape}, this teacher takes {wanted}")
    if array.shape[0] == 0:
        raise InvalidImages(f"there are no images in the request; this teacher takes {wanted} with N >= 1")
    return array.astype(np.uint8, copy=False)


def image_digests(images_nhwc: Images) -> list[bytes]:
    """SHA-256 of each image over its shape (three little-endian uint32: H, W, C) and its uint8 bytes."""
    _, height, width, channels = images_nhwc.shape
    shape = np.array([height, width, channels], dtype="<u4").tobytes()
    contiguous = np.ascontiguousarray(images_nhwc)
    return [hashlib.sha256(shape + image.tobytes()).digest() for image in contiguous]


def batch_digest(digests: Iterable[bytes]) -> str:
    """SHA-256, in hex, over the images' digests in order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def answer_digest(answer: NDArray[np.float32] | NDArray[np.int64]) -> str:
    """SHA-256, in hex, over the disclosed values as little-endian float32 (or int64 labels), row by row."""
    little_endian = answer.astype("<f4" if answer.dtype.kind == "f" else "<i8", copy=False)
    return hashlib.sha256(np.ascontiguousarray(little_endian).tobytes()).hexdigest()
