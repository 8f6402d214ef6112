"""One TOML file per experiment: its sections, their bounds, and how the file is read.

Each function of the client receives the section that is its own, never the whole. Where the teacher is and which
key is used are not part of an experiment: they come from flags and the environment.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill_client.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Augmentation = Literal["none", "geometric", "mixup", "combination"]


class Section(BaseModel):
    """Frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TeacherConfig(Section):
    """Whom to ask, and how."""

    name: str = Field(min_length=1)
    images_per_request: int = Field(256, ge=1, le=65_536)
    requests_in_flight: int = Field(2, ge=1, le=64)
    deadline_s: float = Field(120.0, gt=0, description="how long one batch may be retried before giving up")


class PoolConfig(Section):
    """The few real images: ``images`` of the data set's training split, drawn by the run's seed."""

    dataset: str
    images: Positive
    balanced: bool = Field(
        True,
        description="equal numbers per true class, as published; false draws at random, the unlabelled case",
    )


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

    network: Literal["mlp", "conv"] = "mlp"
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
    decay: Literal["constant", "cosine"] = "cosine"
    averaging_decay: float = Field(
        0.0, ge=0, lt=1, description="of the exponential moving average of weights, per step; 0 is off"
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

    dataset: str
    held_out_fraction: float = Field(0.02, ge=0, lt=0.5)


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
    augmentation: AugmentationConfig = AugmentationConfig()
    baselines: BaselineConfig = BaselineConfig()
    evaluation: EvaluationConfig

    def digest(self) -> str:
        """SHA-256, in hex, of the resolved configuration as canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_config(path: Path) -> RunConfig:
    """Read and validate a TOML file; raises ConfigError naming the key, the value and what is allowed."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from error
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(_faults(error))) from error


def _faults(error: ValidationError) -> list[str]:
    faults = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        given = "" if fault["type"] in ("missing", "value_error") else f" (given: {fault['input']!r})"
        faults.append(f"{key}: {fault['msg']}{given}")
    return faults
