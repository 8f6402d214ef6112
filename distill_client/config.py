"""One TOML file per experiment: its sections, their bounds, and how the file is read.

Each function of the client receives the section that is its own, never the whole. Where the teacher is and which
key is used are not part of an experiment: they come from flags and the environment.
"""

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill_client.errors import ConfigError
from shared.datasets import FOLDER_PREFIX
from shared.wire.contracts import Resize

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Augmentation = Literal["none", "geometric", "mixup", "combination"]
Tail = Literal["lump", "spread"]


class Section(BaseModel):
    """Frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TeacherConfig(Section):
    """Whom to ask, and how."""

    name: str = Field(min_length=1)
    images_per_request: int = Field(256, ge=1, le=65_536)
    requests_in_flight: int = Field(2, ge=1, le=64)
    deadline_s: float = Field(120.0, gt=0, description="how long one batch may be retried before giving up")


def _names_no_labels(pool: Any) -> bool:
    return isinstance(pool, dict) and any(pool.get(key) is not None for key in ("folder", "file"))


class PoolConfig(Section):
    """The few real images: ``images`` of them, drawn by the run's seed from exactly one source.

    ``dataset`` is labelled: the training split of a published set, or of an ImageFolder tree as ``folder:PATH``.
    ``folder`` (pictures, flat or nested) and ``file`` (an .npz with the array ``images``) are not.
    """

    dataset: str | None = None
    folder: Path | None = None
    file: Path | None = None
    images: Positive
    size: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}x[13]$",
        description="height x width x channels; the teacher's own where it is not given",
    )
    resize: Resize | None = Field(None, description="how pictures come to that size; the teacher's rule if not given")
    balanced: bool = Field(
        True,
        description="equal numbers per true class, as published; false draws at random, the unlabelled case",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_balance_without_labels(cls, content: Any) -> Any:
        return {"balanced": False, **content} if _names_no_labels(content) else content

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.dataset, self.folder, self.file)) != 1:
            raise ValueError("give exactly one of dataset, folder and file")
        if self.is_unlabelled and self.balanced:
            raise ValueError("balanced is true, and a folder or file has no labels to balance by; leave it out")
        return self

    @property
    def is_unlabelled(self) -> bool:
        """Whether nothing is known of the images' true classes."""
        return self.dataset is None

    @property
    def is_of_files(self) -> bool:
        """Whether there are pictures of the user's own to be read."""
        return self.is_unlabelled or str(self.dataset).startswith(FOLDER_PREFIX)

    @property
    def source(self) -> str:
        """The key that names the source and its value, for messages."""
        key = next(key for key in ("dataset", "folder", "file") if getattr(self, key) is not None)
        return f"pool.{key} is {getattr(self, key)}"

    @property
    def image_hwc(self) -> tuple[int, int, int] | None:
        """``size`` as numbers."""
        if self.size is None:
            return None
        height, width, channels = map(int, self.size.split("x"))
        return height, width, channels


class MixupConfig(Section):
    """MixUp, FS-BBT section 3.1: x = lambda x1 + (1 - lambda) x2 with lambda ~ Beta(alpha, alpha)."""

    alpha: float = Field(1.0, gt=0)
    lambda_decimals: int = Field(2, ge=1, le=6)
    original_within: float = Field(
        0.05,
        ge=0,
        lt=0.5,
        description="a lambda this near 0 or 1 leaves an original; a CVAE image takes its place",
    )


class CvaeConfig(Section):
    """The conditional VAE, FS-BBT section 3.2, trained on the pool alone."""

    network: Literal["auto", "mlp", "conv"] = Field("auto", description="mlp for 28x28, conv for every other size")
    latent: int = Field(2, ge=1, le=1024)
    epochs: Positive = 200
    batch_size: Positive = 256
    learning_rate: float = Field(1e-3, gt=0)
    z: Literal["hybrid", "gaussian", "uniform"] = "hybrid"
    z_uniform_bound: float = Field(3.0, gt=0)


class SynthesisConfig(Section):
    """How many images are invented and bought beside the pool, and by what."""

    images: int = Field(ge=0, le=10_000_000)
    mixup: MixupConfig = MixupConfig()
    cvae: CvaeConfig = CvaeConfig()


class TrainingConfig(Section):
    """The schedule that every contender trains with; give ``epochs`` or ``steps``, not both."""

    batch_size: Positive = 256
    epochs: Positive | None = None
    steps: Positive | None = None
    learning_rate: float = Field(5e-3, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["constant", "cosine", "steps"] = "cosine"
    l2: float = Field(0.0, ge=0, description="times a convolution's squared weights, added to the loss as in Keras")
    averaging_decay: float = Field(
        0.0, ge=0, lt=1, description="of the exponential moving average of weights, per step; 0 is off"
    )
    tail: Tail = Field(
        "lump",
        description="the classes that a top-k answer does not name: one event, or equal shares of what is missing",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self


class StudentConfig(Section):
    """The student's network and the unqueried augmentation it trains with."""

    network: str
    augmentation: Augmentation = "combination"


class LabelOnlyConfig(Section):
    """What our student does about a teacher that names a class and nothing else; none of it costs a query."""

    ensemble: int = Field(3, ge=0, le=16, description="students of the labels that teach the last one; 0 for none")
    label_share: Fraction = Field(0.5, description="of a bought image's target, beside the ensemble's opinion of it")
    blended_fraction: Fraction = Field(0.5, description="of each batch: unqueried blends, the ensemble's alone")
    prior_correction: bool = Field(
        False, description="take out of the student how often synthetic images are given each class"
    )


class BaselineConfig(Section):
    """The two contenders every student is measured against, each with the augmentation that suits it."""

    student_alone: bool = True
    student_alone_augmentation: Augmentation = "none"
    standard_kd: bool = True
    standard_kd_augmentation: Augmentation = "none"


class AugmentationConfig(Section):
    """Bounds of the random geometric transform (unqueried; the label stays)."""

    rotate_degrees: float = Field(10.0, ge=0, le=180)
    shift_fraction: float = Field(0.1, ge=0, le=0.5)
    flip: bool = False


class EvaluationConfig(Section):
    """The test split is read from disk, never sent. Held-out bought answers measure agreement without it."""

    dataset: str | None = None
    held_out_fraction: float = Field(0.02, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _something_to_measure(self) -> Self:
        if self.dataset is None and self.held_out_fraction == 0:
            raise ValueError("give dataset, or a held_out_fraction above 0; nothing could be measured")
        return self


class RunConfig(Section):
    """A whole experiment."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(ge=0, lt=2**63)
    budget_images: Positive
    teacher: TeacherConfig
    pool: PoolConfig
    synthesis: SynthesisConfig
    student: StudentConfig
    training: TrainingConfig
    label_only: LabelOnlyConfig = LabelOnlyConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    baselines: BaselineConfig = BaselineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _no_student_alone_without_labels(cls, content: Any) -> Any:
        """It is on where there are labels; a pool without any has it only if it is asked for, which is refused."""
        if not isinstance(content, dict) or "pool" not in content:
            return content
        baselines = content.get("baselines", {})
        if not _names_no_labels(content["pool"]) or not isinstance(baselines, dict):
            return content
        return {**content, "baselines": {"student_alone": False, **baselines}}

    @model_validator(mode="after")
    def _student_alone_needs_labels(self) -> Self:
        if self.pool.is_unlabelled and self.baselines.student_alone:
            raise ValueError(
                f"baselines.student_alone is true and {self.pool.source}, which has no labels to learn from; "
                "leave it out, or name a labelled tree as pool.dataset = 'folder:PATH'"
            )
        return self

    def digest(self) -> str:
        """SHA-256, in hex, of the resolved configuration as canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_config(path: Path) -> RunConfig:
    """Read and validate a TOML file; paths in it that are not absolute are below the file's own folder.

    Raises ConfigError naming the key, the value and what is allowed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    try:
        return RunConfig.model_validate(_with_absolute_paths(content, path.resolve().parent))
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(faults_of(error))) from error


def _with_absolute_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    resolved = dict(content)
    for section in ("pool", "evaluation"):
        if not isinstance(content.get(section), dict):
            continue
        values = dict(content[section])
        for key in {"folder", "file"} & values.keys():
            if isinstance(values[key], str):
                values[key] = str(folder / os.path.expanduser(values[key]))
        dataset = values.get("dataset")
        if isinstance(dataset, str) and dataset.startswith(FOLDER_PREFIX):
            values["dataset"] = FOLDER_PREFIX + str(folder / os.path.expanduser(dataset.removeprefix(FOLDER_PREFIX)))
        resolved[section] = values
    return resolved


def faults_of(error: ValidationError) -> list[str]:
    """What is wrong with a TOML file's content, one sentence per key, with the value that was given."""
    faults = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        given = "" if fault["type"] in ("missing", "value_error") else f" (given: {fault['input']!r})"
        faults.append(f"{key}: {fault['msg']}{given}")
    return faults
