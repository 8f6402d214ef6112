"""The real images, and who is asked about them."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distill_client.config.section import Positive, Section
from shared.datasets import FOLDER_PREFIX
from shared.wire.contracts import Resize


class TeacherConfig(Section):
    """Whom to ask, and how."""

    name: str = Field(min_length=1)
    images_per_request: int = Field(256, ge=1, le=65_536)
    requests_in_flight: int = Field(2, ge=1, le=64)
    deadline_s: float = Field(120.0, gt=0, description="how long one batch may be retried before giving up")


def names_no_labels(pool: Any) -> bool:
    """Whether a pool section, as the file has it, names a source without labels, or labels that are not read."""
    if not isinstance(pool, dict):
        return False
    return pool.get("labels") == "ignore" or any(pool.get(key) is not None for key in ("folder", "file"))


class PoolConfig(Section):
    """The few real images: ``images`` of them, drawn by the run's seed from exactly one source.

    ``dataset`` is labelled: the training split of a published set, or of an ImageFolder tree as ``folder:PATH``.
    ``folder`` (pictures, flat or nested) and ``file`` (an .npz with the array ``images``) are not. A data set of
    other classes than the teacher's may be a pool as well, when its ``labels`` are not read: its images then come to
    the teacher's input as pictures do.
    """

    dataset: str | None = None
    folder: Path | None = None
    file: Path | None = None
    labels: Literal["use", "ignore"] = Field(
        "use", description="of a data set; ignored, it may have other classes and another size than the teacher"
    )
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
        return {"balanced": False, **content} if names_no_labels(content) else content

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.dataset, self.folder, self.file)) != 1:
            raise ValueError("give exactly one of dataset, folder and file")
        if self.is_unlabelled and self.balanced:
            why = "its labels are not read" if self.dataset else "a folder or file has no labels to balance by"
            raise ValueError(f"balanced is true, and {why}; leave it out")
        return self

    @property
    def is_unlabelled(self) -> bool:
        """Whether nothing is known of the images' true classes."""
        return self.dataset is None or self.labels == "ignore"

    @property
    def is_of_files(self) -> bool:
        """Whether there are pictures of the user's own to be read."""
        return self.dataset is None or self.dataset.startswith(FOLDER_PREFIX)

    @property
    def is_brought_to_input(self) -> bool:
        """Whether the images may have any size, and come to the teacher's input by a rule."""
        return self.is_of_files or self.is_unlabelled

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
