"""Who is told how far a run is."""

from collections.abc import Callable
from typing import Protocol

from distill_client.teachers.protocol import Answer


class Reporter(Protocol):
    """Who is told how far the run is."""

    def buying(self, stage: str, images: int, bought: int) -> Callable[[Answer], None]:
        """A stage of ``images`` begins, ``bought`` of them already there; the result hears every further answer."""
        ...

    def training(self, what: str) -> Callable[[int, int, float], None]:
        """A training begins; the result hears (step, steps, loss)."""
        ...

    def choosing(self, stage: str, candidates: int) -> Callable[[int], None]:
        """Images are chosen for a stage, of so many at most; the result hears how many were looked at by now."""
        ...

    def measured(self, told: str) -> None:
        """It is known what a round of buying added."""
        ...

    def warning(self, told: str) -> None:
        """Something is probably not as it was meant, and the run goes on."""
        ...

    def learning(self, how: str) -> None:
        """Trainings follow, by the loss that is named."""
        ...
