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
    EvaluationConfig,
    LabelOnlyConfig,
    StudentConfig,
    TrainingConfig,
)
from distill_client.config.synthesis import SynthesisConfig


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

    def digest(self) -> str:
        """SHA-256, in hex, of the resolved configuration as canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
