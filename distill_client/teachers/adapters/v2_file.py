"""A teacher behind the Open Inference Protocol v2, as its file describes it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distill_client.teachers.adapters.input_tensors import TensorTeacherFile
from shared.wire.contracts import Disclosure

Datatype = Literal["UINT8", "FP32", "BYTES"]
Output = Literal["probabilities", "logits", "classification", "label"]


class OpenInferenceFile(TensorTeacherFile):
    """``url`` is what comes before /v2, such as http://HOST:8000."""

    kind: Literal["open-inference"]
    model: str = Field(pattern=r"^[^/?#\s]+$", description="its name at the server")
    model_version: str | None = Field(
        None, pattern=r"^[^?#\s]+$", description="asked for by its address; none: default"
    )
    datatype: Datatype = Field("FP32", description="bytes as they are, scaled numbers, or encoded files")
    wire: Literal["binary", "json"] = Field("binary", description="whether tensors follow the JSON as bytes")
    input_name: str | None = Field(None, description="from the model's metadata where it is not given")
    output_name: str | None = Field(None, description="from the model's metadata where it is not given")
    output: Output = Field("probabilities", description="what it means; classification asks for value:index:label")

    @model_validator(mode="after")
    def _output_can_be_answers(self) -> Self:
        kind = Disclosure.parse(self.answers).kind
        if self.output == "label" and kind != "label":
            raise ValueError(f"output is label and answers is {self.answers!r}; allowed is label")
        if self.output == "logits" and kind == "top-k":
            raise ValueError(f"output is logits and answers is {self.answers!r}; allowed are probabilities and label")
        return self
