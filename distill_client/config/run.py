"""The whole experiment."""

import hashlib
import json
from typing import Any, Self

from pydantic import Field, model_validator

from distill_client.config.budget import BudgetConfig
from distill_client.config.pool import PoolConfig, TeacherConfig, names_no_labels
from distill_client.config.section import Positive, Section
from distill_client.config.student import (
    AugmentationConfig,
    BaselineConfig,
    EnsembleConfig,
    EvaluationConfig,
    LabelOnlyConfig,
    StudentConfig,
    TrainingConfig,
)
from distill_client.config.synthesis import SynthesisConfig

# Of methods whose rounds are drawn alike. Active MixUp's are not: each is what the last student found hardest.
METHODS_OF_EQUAL_ROUNDS = ("mixed-views",)


class RunConfig(Section):
    """A whole experiment."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(ge=0, lt=2**63)
    budget_images: Positive
    budget: BudgetConfig = BudgetConfig()
    teacher: TeacherConfig
    pool: PoolConfig
    synthesis: SynthesisConfig
    student: StudentConfig
    training: TrainingConfig
    amplification: EnsembleConfig = EnsembleConfig()
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
        if not names_no_labels(content["pool"]) or not isinstance(baselines, dict):
            return content
        return {**content, "baselines": {"student_alone": False, **baselines}}

    @model_validator(mode="after")
    def _student_alone_needs_labels(self) -> Self:
        if self.pool.is_unlabelled and self.baselines.student_alone:
            why, instead = "has no labels to learn from", "name a labelled tree as pool.dataset = 'folder:PATH'"
            if self.pool.dataset is not None:
                why, instead = "is used without its labels", "leave out pool.labels"
            raise ValueError(
                f"baselines.student_alone is true and {self.pool.source}, which {why}; leave it out, or {instead}"
            )
        return self

    @model_validator(mode="after")
    def _second_pool_needs_a_data_set(self) -> Self:
        if self.pool.is_unlabelled and self.synthesis.cvae.pool == "second":
            raise ValueError(
                f"synthesis.cvae.pool is 'second' and {self.pool.source}; a second pool is drawn from a labelled "
                "pool.dataset only, as FS-BBT's released code does; allowed here is 'own'"
            )
        return self

    @model_validator(mode="after")
    def _rounds_can_be_bought(self) -> Self:
        policy, method = self.budget.policy, self.synthesis.method
        if policy == "until-flat" and method not in METHODS_OF_EQUAL_ROUNDS:
            raise ValueError(
                f"budget.policy is 'until-flat' and synthesis.method is {method!r}; allowed with it, because its "
                f"rounds are all alike and may end anywhere: {', '.join(METHODS_OF_EQUAL_ROUNDS)}"
            )
        if policy == "until-flat" and self.budget.rounds < 2:
            raise ValueError("budget.policy is 'until-flat' and budget.rounds is 1; at least 2 are needed to stop")
        if self.buys_in_rounds and self.synthesis.images < self.budget.rounds:
            raise ValueError(
                f"synthesis.images is {self.synthesis.images}, to be bought in budget.rounds = {self.budget.rounds}; "
                "each buys one image at least"
            )
        return self

    @property
    def buys_in_rounds(self) -> bool:
        """Whether synthetic images are bought in ``budget.rounds``, with an interim student after each."""
        return self.budget.policy == "until-flat" or self.synthesis.method == "active-mixup"

    def digest(self) -> str:
        """SHA-256, in hex, of the resolved configuration as canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
