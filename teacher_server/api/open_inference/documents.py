"""The protocol's documents, as far as this server reads and writes them; members it does not know are ignored."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

INPUT_NAME = "images"
PROBABILITIES = "probabilities"
LABELS = "labels"
DATATYPES = ("UINT8", "FP32", "BYTES")
HEADER_JSON_LENGTH = "Inference-Header-Content-Length"
SIZE_MAX = 2**63 - 1

_Extent = Annotated[int, Field(ge=0, le=SIZE_MAX, strict=True)]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class InputParameters(_Document):
    """``binary_data_size``: the tensor stands after the JSON, in so many bytes."""

    binary_data_size: _Extent | None = None
    shared_memory_region: Any = Field(None, description="refused: no memory is shared with callers")


class InputTensor(_Document):
    """The one input: images as numbers, or as encoded files."""

    name: str = Field(max_length=255, json_schema_extra={"enum": [INPUT_NAME]})
    shape: list[_Extent] = Field(min_length=1, max_length=8)
    datatype: str = Field(max_length=16, json_schema_extra={"enum": list(DATATYPES)})
    parameters: InputParameters = InputParameters()
    data: Any = Field(None, description="row-major, nested or flat; of BYTES each the base64 of one image file")


class OutputParameters(_Document):
    """How the output is wanted: as binary, or as the ``classification`` most probable classes of each image."""

    binary_data: bool | None = None
    classification: Annotated[int, Field(ge=1, le=SIZE_MAX)] | None = None
    shared_memory_region: Any = Field(None, description="refused: no memory is shared with callers")


class WantedOutput(_Document):
    """One output that the caller wants."""

    name: str = Field(max_length=255, json_schema_extra={"enum": [PROBABILITIES, LABELS]})
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Document):
    """``binary_data_output``: outputs are wanted as binary where they do not say otherwise."""

    binary_data_output: bool = False


class InferRequest(_Document):
    """A batch to be answered."""

    id: str = Field("", max_length=1024, description="given back in the answer")
    parameters: RequestParameters = RequestParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] = Field([], max_length=1)


class OutputTensor(BaseModel):
    """``data`` is flat and row-major; it stands after the JSON instead where ``binary_data_size`` is given."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str | int | bool] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """The answer, and in its parameters what /v1 says beside an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int | bool]
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """What an input takes or an output gives; -1 for any number of images."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str]


class ModelMetadata(BaseModel):
    """A teacher as this protocol describes a model; never its network."""

    name: str
    versions: list[str] = Field(description="those that may be asked for, the default last")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """The process answers."""

    live: bool


class ServerReady(BaseModel):
    """A request can be answered now; ``live`` is what the specification prints here."""

    ready: bool
    live: bool


class ModelReady(BaseModel):
    """This teacher can be asked now."""

    name: str
    ready: bool
