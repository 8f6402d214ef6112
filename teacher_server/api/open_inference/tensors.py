"""An input tensor, as JSON or as the bytes after it, to a body that the spine takes."""

import base64
import binascii
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.wire.error_codes import ErrorCode
from teacher_server.api.open_inference.documents import DATATYPES, INPUT_NAME, InputTensor
from teacher_server.decoding import Body, ImageFilesBody, TensorBody
from teacher_server.errors import Refusal

_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
_LENGTH_BYTES = 4


def read_tensor(tensor: InputTensor, binary: bytes | memoryview | None, *, images_max: int) -> Body:
    """The images of the one input; ``binary`` is what stands after the JSON, None where nothing may.

    Raises Refusal: invalid_request, invalid_images, too_many_images.
    """
    if tensor.name != INPUT_NAME:
        raise _invalid(f"inputs.0.name is {tensor.name[:80]!r}; the one input is {INPUT_NAME!r}")
    if tensor.datatype not in DATATYPES:
        raise _invalid(f"inputs.0.datatype is {tensor.datatype!r}; allowed are {', '.join(DATATYPES)}")
    if tensor.parameters.shared_memory_region is not None:
        raise _invalid("inputs.0.parameters.shared_memory_region is given; allowed are data in JSON and binary data")
    if tensor.shape[0] > images_max:
        raise Refusal(
            ErrorCode.TOO_MANY_IMAGES,
            f"inputs.0.shape is {tensor.shape}; allowed are 1 to {images_max} images in one request",
            images=tensor.shape[0],
            images_per_request_max=images_max,
        )
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise _invalid("inputs.0 needs either data or parameters.binary_data_size, and not both")
    if size is None:
        if binary:
            raise _invalid(f"{len(binary)} bytes follow the JSON, but inputs.0 has no binary_data_size")
        return _from_json(tensor)
    if binary is None:
        raise _invalid("inputs.0.parameters.binary_data_size needs the header Inference-Header-Content-Length")
    if size != len(binary):
        raise _invalid(
            f"inputs.0.parameters.binary_data_size is {size}; allowed are the {len(binary)} that follow the JSON"
        )
    return _from_bytes(tensor, binary)


def _from_bytes(tensor: InputTensor, binary: bytes | memoryview) -> Body:
    if tensor.datatype == "BYTES":
        return _files(tensor, _split(binary, elements_max=tensor.shape[0]))
    dtype = _DTYPES[tensor.datatype]
    needed = math.prod(tensor.shape) * dtype.itemsize
    if needed != len(binary):
        raise _invalid(
            f"inputs.0.shape is {tensor.shape}; of {tensor.datatype} that needs {needed} bytes, not {len(binary)}"
        )
    return TensorBody(_shaped(np.frombuffer(binary, dtype), tensor))


def _split(binary: bytes | memoryview, *, elements_max: int) -> list[bytes]:
    """The elements of a BYTES tensor, each with its length before it; one too many is told by whoever counts them."""
    elements: list[bytes] = []
    at = 0
    while at < len(binary) and len(elements) <= elements_max:
        start = at + _LENGTH_BYTES
        end = start + int.from_bytes(binary[at:start], "little")
        if start > len(binary) or end > len(binary):
            raise _invalid(
                f"element {len(elements)} of inputs.0 goes to byte {end} of {len(binary)}; each is a length of "
                "4 bytes and so many bytes"
            )
        elements.append(bytes(binary[start:end]))
        at = end
    return elements


def _files(tensor: InputTensor, files: list[bytes]) -> ImageFilesBody:
    if tensor.shape not in ([len(files)], [len(files), 1]):
        raise _invalid(
            f"inputs.0.shape is {tensor.shape}, and it holds {len(files)} elements; of BYTES allowed are [N], [N, 1]"
        )
    if not files:
        raise Refusal(ErrorCode.INVALID_IMAGES, "inputs.0 holds no image files; send at least one")
    return ImageFilesBody(tuple(files))


def _from_json(tensor: InputTensor) -> Body:
    if tensor.datatype == "BYTES":
        return _files(tensor, _texts(tensor.data))
    if not isinstance(tensor.data, list):
        raise _invalid(f"inputs.0.data is {type(tensor.data).__name__}; allowed is a list of numbers")
    try:
        found: NDArray[np.object_] = np.array(tensor.data, dtype=object)
    except ValueError as error:  # deeper than an array can be
        raise _invalid("inputs.0.data cannot be read as an array") from error
    if found.ndim > max(1, len(tensor.shape)):
        raise _invalid(f"inputs.0.data is nested {found.ndim} deep; inputs.0.shape is {tensor.shape}")
    _require_kinds(found, tensor.datatype)
    if found.size != math.prod(tensor.shape) or (found.ndim > 1 and list(found.shape) != tensor.shape):
        raise _invalid(f"inputs.0.data has the shape {list(found.shape)}; inputs.0.shape is {tensor.shape}")
    try:
        numbers = found.astype(np.float64)
    except OverflowError as error:
        raise _invalid("inputs.0.data holds an integer of hundreds of digits") from error
    if tensor.datatype == "UINT8":
        outside = (numbers < 0) | (numbers > np.iinfo(np.uint8).max)
        if outside.any():
            raise _invalid(f"inputs.0.data holds {numbers[outside].flat[0]:g}; UINT8 takes integers from 0 to 255")
    with np.errstate(over="ignore"):  # an infinity is refused where FP32 is read
        return TensorBody(_shaped(numbers.astype(_DTYPES[tensor.datatype]), tensor))


def _require_kinds(found: NDArray[np.object_], datatype: str) -> None:
    allowed = {int} if datatype == "UINT8" else {int, float}
    if wrong := set(map(type, found.flat)) - allowed:
        what = sorted("uneven lists" if kind is list else kind.__name__ for kind in wrong)
        numbers = "integers" if datatype == "UINT8" else "numbers"
        raise _invalid(f"inputs.0.data holds {', '.join(what)}; {datatype} takes {numbers}, nested evenly or flat")


def _texts(data: Any) -> list[bytes]:
    """The image files of a BYTES tensor in JSON, which cannot hold bytes: base64, N of them or N lists of one."""
    if not isinstance(data, list):
        raise _invalid(f"inputs.0.data is {type(data).__name__}; allowed is a list of texts")
    texts = list(itertools.chain.from_iterable(data)) if data and all(isinstance(x, list) for x in data) else data
    files: list[bytes] = []
    for index, text in enumerate(texts):
        try:
            files.append(base64.b64decode(text.encode("ascii"), validate=True))
        except (AttributeError, UnicodeEncodeError, binascii.Error) as error:
            raise _invalid(
                f"inputs.0.data, element {index}: not base64; BYTES in JSON are the base64 of an image file each"
            ) from error
    return files


def _shaped(values: NDArray[Any], tensor: InputTensor) -> NDArray[Any]:
    try:
        return values.reshape(tensor.shape)
    except (ValueError, OverflowError) as error:  # extents that no array has, beside one of 0
        raise _invalid(f"inputs.0.shape is {tensor.shape}, which is none that an array can have") from error


def _invalid(detail: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, detail)
