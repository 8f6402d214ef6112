"""What a model's metadata says (Open Inference Protocol v2), held against the teacher's file."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill_client.errors import ConfigError, TeacherProtocolError
from distill_client.teachers.adapters.json_reply import read_json
from distill_client.teachers.adapters.v2_file import OpenInferenceFile
from distill_client.teachers.transport import HttpReply


@dataclass(frozen=True)
class Seen:
    """The tensors' names, and how many axes the input has; 0 where it is not known."""

    input_name: str
    output_name: str
    input_axes: int


class _Tensor(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    datatype: str = ""
    shape: list[int] = []
    parameters: dict[str, Any] | None = None


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    inputs: list[_Tensor] | None = Field(None, description="MLServer leaves them out where nobody declared them")
    outputs: list[_Tensor] | None = None


def read_metadata(file: OpenInferenceFile, reply: HttpReply) -> Seen:
    """The tensors that ``file`` means.

    Raises ConfigError, naming the key, where the model is not what the file says; TeacherProtocolError where the
    reply is no metadata.
    """
    document = read_json(reply)
    try:
        metadata = _Metadata.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise TeacherProtocolError(f"{reply.url}: no metadata of a model: {where}: {fault['msg']}") from error
    taken = _tensor(file, "input_name", file.input_name, metadata.inputs or [])
    given = _tensor(file, "output_name", file.output_name, metadata.outputs or [])
    if taken.shape:
        _check_datatype(file, taken)
        _check_input(file, taken)
    if given.shape:
        _check_output(file, given)
    return Seen(taken.name, given.name, len(taken.shape) if taken.datatype == "BYTES" else 0)


def _tensor(file: OpenInferenceFile, key: str, name: str | None, found: list[_Tensor]) -> _Tensor:
    names = ", ".join(repr(tensor.name) for tensor in found) or "none"
    if name is None:
        if len(found) == 1:
            return found[0]
        raise ConfigError(f"{key} is not given, and the metadata of model {file.model} names {names}; choose one")
    if not found:
        return _Tensor(name=name)
    chosen = next((tensor for tensor in found if tensor.name == name), None)
    if chosen is None:
        raise ConfigError(f"{key} is {name!r}; model {file.model} has {names}")
    return chosen


def _check_datatype(file: OpenInferenceFile, tensor: _Tensor) -> None:
    """OpenVINO's server takes encoded files for any model; our own says which other datatypes it takes."""
    also = str((tensor.parameters or {}).get("also", ""))
    if file.datatype in ("BYTES", tensor.datatype) or file.datatype in also:
        return
    raise ConfigError(
        f"datatype is {file.datatype}; input {tensor.name!r} of model {file.model} is {tensor.datatype}"
    )


def _check_input(file: OpenInferenceFile, tensor: _Tensor) -> None:
    batch, wanted = tensor.shape[0], file.axes_hwc
    if file.datatype != "BYTES":
        axes = tuple(tensor.shape[1:])
        if len(axes) != len(wanted) or any(found not in (-1, want) for found, want in zip(axes, wanted, strict=True)):
            raise ConfigError(
                f"image_size {file.image_size} in layout {file.layout} gives the shape {[-1, *wanted]}; input "
                f"{tensor.name!r} of model {file.model} has {tensor.shape}"
            )
    if batch not in (-1, 1) or (batch == 1 and file.images_per_call != 1):
        raise ConfigError(
            f"images_per_call is {file.images_per_call}; input {tensor.name!r} of model {file.model} has shape "
            f"{tensor.shape}, which takes exactly {batch} a call: allowed is 1 of 1, or any number of -1"
        )


def _check_output(file: OpenInferenceFile, tensor: _Tensor) -> None:
    classes = len(file.classes)
    if file.output in ("probabilities", "logits"):
        extents = [extent for extent in tensor.shape[1:] if extent != 1]
        if extents not in ([classes], [-1]):
            raise ConfigError(
                f"classes has {classes} names; output {tensor.name!r} of model {file.model} has shape {tensor.shape}"
            )
    told = (tensor.parameters or {}).get("classes")
    if isinstance(told, str) and told != json.dumps(file.classes):
        raise ConfigError(f"classes is {file.classes}; model {file.model} says {told[:500]}")
