"""The student: its network, how it and the baselines are trained, and what they are measured on."""

from typing import Literal, Self

from pydantic import Field, model_validator

from distill_client.config.section import Fraction, Positive, Section
from shared.counting import counted

Augmentation = Literal["none", "geometric", "mixup", "combination"]
Tail = Literal["lump", "spread"]


class TrainingConfig(Section):
    """The schedule that every contender trains with; give ``epochs`` or ``steps``, not both."""

    batch_size: Positive = 256
    epochs: Positive | None = None
    steps: Positive | None = None
    optimiser: Literal["adam", "muon"] = Field(
        "adam", description="muon takes the steps of all weights that are matrices, and Adam those of the rest"
    )
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(
        0.0, ge=0, description="Muon's: times the learning rate, what a matrix loses of itself in each step"
    )
    warmup_steps: int = Field(0, ge=0, description="fewer than steps, where these are given")
    decay: Literal["constant", "cosine", "steps"] = "cosine"
    l2: float = Field(0.0, ge=0, description="times a convolution's squared weights, added to the loss as in Keras")
    averaging_decay: float = Field(
        0.0, ge=0, lt=1, description="of the exponential moving average of weights, per step; 0 is off"
    )
    tail: Tail = Field(
        "lump",
        description="the classes that a top-k answer does not name: one event, or equal shares of what is missing",
    )

    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16 computes the network under autocast where the device has units for it, else float32",
    )
    compile: bool = Field(False, description="torch.compile the network: minutes at first, a faster step then")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        return self

    @model_validator(mode="after")
    def _decays_as_its_optimiser_does(self) -> Self:
        if self.weight_decay and self.optimiser != "muon":
            raise ValueError(f"weight_decay is {self.weight_decay}, which is Muon's; allowed with adam is 0, see l2")
        if self.l2 and self.optimiser == "muon":
            raise ValueError(f"l2 is {self.l2}, which is Adam's; allowed with muon is 0, see weight_decay")
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; allowed with {counted(self.steps, 'step')} are 0 to "
                f"{self.steps - 1}, or the learning rate would only rise"
            )
        return self


class StudentConfig(Section):
    """The student's network and the unqueried augmentation it trains with."""

    network: str
    augmentation: Augmentation = "combination"
    pool_repeats: int = Field(1, ge=1, le=100, description="times a real image is learnt for each of a made one")


class EnsembleConfig(Section):
    """Query-free amplification: students of the bought answers teach the last one about images nobody asked about."""

    ensemble: int = Field(0, ge=0, le=16, description="students of the answers that teach the last one; 0 for none")
    label_share: Fraction = Field(1.0, description="of a bought image's target, beside the ensemble's opinion of it")
    blended_fraction: Fraction = Field(0.5, description="of each batch: unqueried blends, the ensemble's alone")


class LabelOnlyConfig(EnsembleConfig):
    """What our student does about a teacher that names a class and nothing else; none of it costs a query."""

    ensemble: int = Field(3, ge=0, le=16, description="students of the labels that teach the last one; 0 for none")
    label_share: Fraction = Field(0.5, description="of a bought image's target, beside the ensemble's opinion of it")
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
    """Unqueried variations: bounds of the random geometric transform, and how much of a batch is blended."""

    rotate_degrees: float = Field(10.0, ge=0, le=180)
    shift_fraction: float = Field(0.1, ge=0, le=0.5)
    flip: bool = False
    real_alone: bool = Field(
        False, description="only real images, before they are blended; made ones stay as answered"
    )
    blended_fraction: Fraction = Field(1.0, description="of each batch, where blends are made; the rest stay whole")


class EvaluationConfig(Section):
    """The test split is read from disk, never sent. Held-out bought answers measure agreement without it."""

    dataset: str | None = None
    held_out_fraction: float = Field(0.02, ge=0, lt=0.5)

    @model_validator(mode="after")
    def _something_to_measure(self) -> Self:
        if self.dataset is None and self.held_out_fraction == 0:
            raise ValueError("give dataset, or a held_out_fraction above 0; nothing could be measured")
        return self
