"""A request's body to what was asked: JSON, JSON with tensors after it, or one image's bare pixels."""

from dataclasses import dataclass

from shared.wire.contracts import InputSpec
from shared.wire.disclosure import Disclosure
from shared.wire.error_codes import ErrorCode
from teacher_server.api.json_body import parse_json
from teacher_server.api.open_inference.documents import (
    HEADER_JSON_LENGTH,
    INPUT_NAME,
    LABELS,
    PROBABILITIES,
    InferRequest,
    InputParameters,
    InputTensor,
    RequestParameters,
)
from teacher_server.api.open_inference.tensors import read_tensor
from teacher_server.decoding import Body
from teacher_server.errors import Refusal

_DIGITS_MAX = 18


@dataclass(frozen=True)
class WantedForm:
    """How the answer is wanted. ``classification``: that many of the most probable classes, 0 for the numbers."""

    id: str
    output: str | None
    as_binary: bool
    classification: int
    is_quantised: bool


def parse_request(
    content: bytes, json_length: str | None, spec: InputSpec | None, *, images_max: int
) -> tuple[Body, WantedForm]:
    """The images and the form wanted. ``json_length`` is the header that says where the JSON ends.

    ``spec``, the teacher's input, is what a body without any JSON is read by. Raises Refusal: invalid_request,
    invalid_images, too_many_images, body_too_large.
    """
    length = _json_length(json_length, len(content))
    if length == 0:
        document, binary = _bare_image(spec), memoryview(content)
    elif length is None:
        document, binary = parse_json(content, InferRequest), None
    else:
        document, binary = parse_json(content[:length], InferRequest), memoryview(content)[length:]
    tensor = document.inputs[0]
    if length == 0:
        tensor = tensor.model_copy(update={"parameters": InputParameters(binary_data_size=len(content))})
    body = read_tensor(tensor, binary, images_max=images_max)
    return body, _form(document, is_quantised=tensor.datatype == "FP32")


def require_visible(form: WantedForm, disclosure: Disclosure, classes: int) -> None:
    """Raise Refusal(invalid_request), before anything is charged, for a form that shows more than the key may see."""
    output = LABELS if disclosure.kind == "label" else PROBABILITIES
    if form.output not in (None, output):
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"outputs.0.name is {form.output[:80]!r}; the one output under disclosure {disclosure} is {output!r}",
        )
    visible = {"label": 1, "top-k": min(disclosure.k, classes), "probabilities": classes}[disclosure.kind]
    if form.classification > visible:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"outputs.0.parameters.classification is {form.classification}; this key (disclosure {disclosure}) may "
            f"see 1 to {visible} of {classes} classes",
        )


def _json_length(header: str | None, body_bytes: int) -> int | None:
    if header is None:
        return None
    if not (header.isascii() and header.isdecimal() and len(header) <= _DIGITS_MAX) or int(header) > body_bytes:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            f"{HEADER_JSON_LENGTH} is {header[:40]!r}; allowed are 0 to {body_bytes}, the bytes of the body",
        )
    return int(header)


def _bare_image(spec: InputSpec | None) -> InferRequest:
    """What a body means that is nothing but the pixels of one image: the answer is wanted as binary too."""
    if spec is None:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"{HEADER_JSON_LENGTH} is 0, and this teacher is not served any more"
        )
    shape = [1, spec.height, spec.width, spec.channels]
    return InferRequest(
        parameters=RequestParameters(binary_data_output=True),
        inputs=[InputTensor(name=INPUT_NAME, shape=shape, datatype="UINT8")],
    )


def _form(document: InferRequest, *, is_quantised: bool) -> WantedForm:
    as_binary = document.parameters.binary_data_output
    if not document.outputs:
        return WantedForm(document.id, None, as_binary, 0, is_quantised)
    wanted = document.outputs[0]
    if wanted.parameters.shared_memory_region is not None:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            "outputs.0.parameters.shared_memory_region is given; allowed are data in JSON and binary data",
        )
    if wanted.parameters.binary_data is not None:
        as_binary = wanted.parameters.binary_data
    return WantedForm(document.id, wanted.name, as_binary, wanted.parameters.classification or 0, is_quantised)
