"""What ``teacher.toml`` holds: its tables, their fields and bounds. A misspelt field is an error."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.networks import NETWORKS, network_source
from shared.wire.contracts import InputSpec, Resize

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters are allowed")
    return text


def _plain_file_name(name: str) -> str:
    if name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError("a plain file name inside the bundle is allowed, no path")
    return name


def _known_network(name: str) -> str:
    if network_source(name) == "published" and name not in NETWORKS:
        raise ValueError(f"allowed are {', '.join(NETWORKS)}, torchvision:NAME, timm:NAME and module:function")
    return name


def _two_or_more_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) < 2:
        raise ValueError("two classes or more are allowed")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is there {names.count(twice[0])} times; each class is allowed once")
    return names


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
# Goes out in an HTTP header, and an answer whose header cannot be written would be charged and never arrive.
Version = Annotated[str, Field(pattern=r"^[!-~]([ -~]{0,62}[!-~])?$")]
Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
# Paths are as long as their owner's folders are deep.
Command = Annotated[str, Field(min_length=1, max_length=20_000), AfterValidator(_printable)]
Classes = Annotated[tuple[Text, ...], Field(max_length=10_000, strict=False), AfterValidator(_two_or_more_distinct)]
Pixels = Annotated[int, Field(ge=1, le=4096)]


class _Table(BaseModel):
    """Frozen; a misspelt field is an error, and ``"28"`` is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class InputTable(_Table):
    """The images a teacher takes; mean and std per channel, of pixels scaled to 0..1; how files are resized."""

    height: Pixels
    width: Pixels
    channels: Literal[1, 3]
    mean: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(strict=False)]
    std: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(strict=False)]
    resize: Resize = Field("exact", description="of image files; arrays have to be of the input's size already")

    @property
    def spec(self) -> InputSpec:
        """What may be told of it on the wire."""
        return InputSpec(height=self.height, width=self.width, channels=self.channels, resize=self.resize)

    @model_validator(mode="after")
    def _one_per_channel(self) -> Self:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{field} has {len(values)} values; one per channel is allowed, {self.channels}")
        return self


class NetworkTable(_Table):
    """Which architecture the weights belong to."""

    name: Annotated[str, AfterValidator(_known_network)]


class WeightsTable(_Table):
    """The weights file beside the manifest, the SHA-256 of its bytes in hex, and what it is.

    ``safetensors`` holds the tensors of ``network``; ``torch-export`` and ``onnx`` hold the network too.
    """

    format: Literal["safetensors", "torch-export", "onnx"] = "safetensors"
    file: Annotated[Text, AfterValidator(_plain_file_name)]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class MeasuredTable(_Table):
    """How good the teacher is, as its owner measured it; test_accuracy is a fraction."""

    test_accuracy: float = Field(ge=0, le=1)
    test_dataset: Text
    test_images: int = Field(ge=1)


class TrainingTable(_Table):
    """How the weights came to be; for people, nothing is computed from it."""

    command: Command
    seed: int
    device: Text
    threads: int = Field(ge=1, description="torch threads; the same seed on another number gives other last digits")
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "cosine", "steps"] = "constant"
    precision: Literal["float32", "bfloat16"] = "float32"
    seconds: float = Field(ge=0)
    versions: dict[Text, Text]


class ImportTable(_Table):
    """Which file of the owner's a bundle was made from, and what was found; nothing is computed from it."""

    file: Text
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the owner's file, as it was")
    outputs: Literal["told", "detected"]
    sample_images: int = Field(ge=1)
    batch_difference: float = Field(ge=0, description="largest change of a probability with the batch it came in")
    versions: dict[Text, Text]


class BundleManifest(_Table):
    """The content of ``teacher.toml``."""

    name: Name
    version: Version
    classes: Classes
    input: InputTable
    network: NetworkTable | None = Field(None, description="needed with safetensors; the other formats bring it")
    weights: WeightsTable
    outputs: Literal["logits", "probabilities"] = Field("logits", description="of the network; logits get a softmax")
    measured: MeasuredTable | None = None
    training: TrainingTable | None = None
    imported: ImportTable | None = None

    @model_validator(mode="after")
    def _network_where_the_weights_need_one(self) -> Self:
        if (self.network is None) == (self.weights.format == "safetensors"):
            needed = "is missing" if self.network is None else "is there"
            raise ValueError(
                f"network {needed} and weights.format is {self.weights.format!r}; safetensors need a network, "
                "torch-export and onnx bring their own"
            )
        return self
