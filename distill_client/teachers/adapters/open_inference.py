"""The Open Inference Protocol v2: Triton, KServe, OpenVINO, MLServer, and our own server's /v2.

The model's metadata is looked at first. It gives the names that the file leaves out, and must agree with the file.
"""

import math
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from distill_client.errors import TeacherProtocolError
from distill_client.teachers.adapters.json_reply import shown
from distill_client.teachers.adapters.scores import arrange_by_name, distributions_of, require_some_number
from distill_client.teachers.adapters.v2_file import OpenInferenceFile
from distill_client.teachers.adapters.v2_metadata import Seen, read_metadata
from distill_client.teachers.adapters.v2_tensors import Elements, Tensor, read_infer, write_infer
from distill_client.teachers.encoding import base64_bytes, encode_image, file_bytes_max, images_that_fit
from distill_client.teachers.manners.signals import Signal, failure_of
from distill_client.teachers.protocol import Answer, Capabilities, InputForm, Values
from distill_client.teachers.transport import HttpReply, HttpRequest
from shared.wire.contracts import Disclosure

# The protocol has no word for it; our own server's header has.
_SIGNALS = (Signal(meaning="exhausted", status=(403,), header="x-error-code", body="^budget_exhausted$"),)


class OpenInferenceAdapter:
    """Satisfies ``Adapter``. Its first look is the model's metadata, which is free."""

    def __init__(self, file: OpenInferenceFile) -> None:
        self._file = file
        self._seen: Seen | None = None
        self._served = {"model_version": file.model_version} if file.model_version else {}
        forms: dict[str, tuple[InputForm, str]] = {
            "UINT8": ("uint8", f"{file.enlarging}sent as uint8, {file.layout}"),
            "FP32": ("fp32", f"{file.enlarging}sent as float32, {file.scaling}"),
            "BYTES": (file.encoding, f"{file.enlarging}sent as {file.encoding}"),
        }
        form, preprocessing = forms[file.datatype]
        self.capabilities: Capabilities = file.capabilities(
            form, images_per_request_max=images_that_fit(file, _image_bytes(file)), preprocessing=preprocessing
        )
        version = f"/versions/{quote(file.model_version)}" if file.model_version else ""
        self._address = f"{file.url.rstrip('/')}/v2/models/{quote(file.model)}{version}"

    def first_look(self) -> HttpRequest | None:
        """See Adapter: the model's metadata."""
        return HttpRequest("GET", self._address, {"Accept": "application/json"})

    def read_first_look(self, reply: HttpReply) -> None:
        """See Adapter; names that the file does not give are taken from it."""
        if not reply.is_success:
            raise failure_of(reply, _SIGNALS)
        self._seen = read_metadata(self._file, reply)

    def request(self, images_nhwc: NDArray[np.uint8], idempotency_key: str) -> HttpRequest:
        """See Adapter."""
        file, seen = self._file, self._require_seen()
        values: NDArray[Any] | list[bytes]
        if file.datatype == "BYTES":
            values = [encode_image(image_hwc, file.encoding) for image_hwc in images_nhwc]
            shape: tuple[int, ...] = (len(values), 1) if seen.input_axes == 2 else (len(values),)
        else:
            values = file.as_bytes(images_nhwc) if file.datatype == "UINT8" else file.as_fractions(images_nhwc)
            shape = values.shape
        wanted: dict[str, Any] = {"name": seen.output_name}
        if file.output == "classification":
            disclosed = Disclosure.parse(file.answers)
            count = {"label": 1, "top-k": disclosed.k}.get(disclosed.kind, len(file.classes))
            wanted["parameters"] = {"classification": min(count, len(file.classes))}
        headers, content = write_infer(
            seen.input_name,
            file.datatype,
            values,
            shape=shape,
            output=wanted,
            binary=file.wire == "binary",
            request_id=idempotency_key,
        )
        return HttpRequest("POST", f"{self._address}/infer", {**headers, "Idempotency-Key": idempotency_key}, content)

    def read(self, reply: HttpReply, images: int) -> Answer:
        """See Adapter; a batch is answered whole or not at all."""
        if not reply.is_success:
            raise failure_of(reply, _SIGNALS)
        document, tensors = read_infer(reply)
        self._require_same_version(reply, document)
        name = self._require_seen().output_name
        found = next((tensor for tensor in tensors if tensor.name == name), None)
        if found is None:
            raise TeacherProtocolError(f"{reply.url}: the answer has no output {name!r}")
        if found.shape[:1] != (images,):
            raise TeacherProtocolError(f"{reply.url}: {images} images were asked, and {name} has shape {found.shape}")
        values = _values(found, images, self._file)
        return Answer(values, self._file.version, self._file.answers, charged=images)

    def _require_seen(self) -> Seen:
        if self._seen is not None:
            return self._seen
        if not (self._file.input_name and self._file.output_name):
            raise TeacherProtocolError("the model's metadata was not looked at, and the file names no tensors")
        return Seen(self._file.input_name, self._file.output_name, 0)

    def _require_same_version(self, reply: HttpReply, document: dict[str, Any]) -> None:
        """A server may put another model in the place of one; its answers are none of this teacher."""
        parameters = document.get("parameters")
        told = {"model_version": document.get("model_version")}
        if isinstance(parameters, dict):  # our own server says there what this key sees
            told["disclosure"] = parameters.get("disclosure")
        for what, found in told.items():
            first = self._served.setdefault(what, found) if isinstance(found, str) and found else found
            if found and found != first:
                raise TeacherProtocolError(
                    f"{reply.url}: {what} is {shown(found)}, after {first!r}; another model answers"
                )


def _image_bytes(file: OpenInferenceFile) -> int:
    """The most bytes that one image takes in a request, the JSON around it left out."""
    if file.datatype == "BYTES":
        return file_bytes_max(file.sent_hwc) if file.wire == "binary" else base64_bytes(file_bytes_max(file.sent_hwc))
    of_a_number = {("UINT8", "binary"): 1, ("FP32", "binary"): 4, ("UINT8", "json"): 4, ("FP32", "json"): 26}
    return math.prod(file.sent_hwc) * of_a_number[file.datatype, file.wire]


def _values(tensor: Tensor, images: int, file: OpenInferenceFile) -> Values:
    if file.output == "classification":
        if not isinstance(tensor.elements, list):
            raise TeacherProtocolError(f"{tensor.name} holds numbers; expected texts such as 0.9:3 or 0.9:3:boot")
        return _ranked(tensor.elements, images, file)
    if file.output == "label":
        return _labels(tensor.elements, images, file)
    if isinstance(tensor.elements, list) or len(tensor.elements) != images * len(file.classes):
        raise TeacherProtocolError(
            f"{tensor.name} has shape {tensor.shape}; expected are {images} x {len(file.classes)} numbers"
        )
    rows_nk = tensor.elements.reshape(images, len(file.classes))
    return distributions_of(require_some_number(rows_nk), file, are_logits=file.output == "logits")


def _ranked(entries: list[str], images: int, file: OpenInferenceFile) -> Values:
    """``value:index[:label]``; the label counts where it is given, and a value of nan says nothing but the label."""
    width = len(entries) // images
    if not width:
        raise TeacherProtocolError("the teacher named no class")
    values_nk = np.full((images, len(file.classes)), np.nan)
    labels_n = np.full(images, -1, np.int64)
    for place, entry in enumerate(entries):
        value, name = _split(entry, file)
        for at in np.flatnonzero(arrange_by_name([{name: 1.0}], file)[0] == 1):  # one class, or none
            values_nk[place // width, at] = value
            if place % width == 0:
                labels_n[place // width] = at
    if Disclosure.parse(file.answers).kind == "label":
        return labels_n
    return distributions_of(values_nk, file)


def _split(entry: str, file: OpenInferenceFile) -> tuple[float, str]:
    """Score and class of one entry."""
    value, _, rest = entry.partition(":")
    index, _, label = rest.partition(":")
    if not (index.isascii() and index.isdecimal() and int(index[:9]) < len(file.classes)):
        raise TeacherProtocolError(
            f"the teacher answered {shown(entry)}; expected value:index of {len(file.classes)}"
        )
    try:
        return float(value), label or file.classes[int(index[:9])]
    except ValueError as error:
        raise TeacherProtocolError(f"the teacher answered {shown(entry)}; expected value:index[:label]") from error


def _labels(elements: Elements, images: int, file: OpenInferenceFile) -> Values:
    """One class an image: its place, or its name."""
    if len(elements) != images:
        raise TeacherProtocolError(f"the teacher gave {len(elements)} labels to {images} images")
    if isinstance(elements, list):
        return distributions_of(arrange_by_name([{name: 1.0} for name in elements], file), file)
    if not np.isin(elements, np.arange(len(file.classes))).all():
        raise TeacherProtocolError(
            f"the teacher gave labels such as {elements.max():g}; there are {len(file.classes)}"
        )
    return elements.astype(np.int64)
