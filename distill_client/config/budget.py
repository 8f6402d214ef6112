"""How the budget is spent: all of what is planned, or in rounds until another one no longer pays."""

from typing import Literal

from pydantic import Field

from distill_client.config.section import Positive, Section


class BudgetConfig(Section):
    """``budget_images`` bounds what is spent under either policy.

    "until-flat" and every method that chooses by what was answered buy in ``rounds`` of equal size, and train an
    interim student after each; the other keys say when such a run is flat.
    """

    policy: Literal["spend-all", "until-flat"] = "spend-all"
    rounds: Positive = Field(5, le=1_000, description="that all synthetic images are bought in")
    interim_length: float = Field(
        1.0, gt=0, le=1, description="of an interim student's training, as a part of the run's own schedule"
    )
    least_gain: float = Field(
        0.5, ge=0, le=100, description="points of agreement with the teacher that a round must add"
    )
    watched_fraction: float = Field(
        0.25,
        gt=0,
        le=0.5,
        description="of the real images: what a round added is measured on them, and interim students learn neither "
        "them nor views of them",
    )
    patience: Positive = Field(1, description="so many rounds, one after the other, must add less before it stops")
