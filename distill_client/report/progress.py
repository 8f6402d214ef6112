"""Progress on the terminal: images bought, budget left, time left; plain lines where there is no terminal."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from distill_client.teachers.paid.allowance import Allowance, money
from distill_client.teachers.protocol import Answer


class RunProgress:
    """One bar per stage and training; use as a context manager. ``allowance`` tells what an image costs."""

    def __init__(self, console: Console, allowance: Allowance | None = None) -> None:
        self._console = console
        self._allowance = allowance
        self._bars = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]:<24}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def buying(self, stage: str, images: int, bought: int) -> Callable[[Answer], None]:
        """See pipeline.Reporter."""
        task = self._bars.add_task(f"buying {stage}", total=images, completed=bought, note="")
        counted = bought
        if not self._console.is_terminal:
            self._console.print(
                f"buying {stage}: {bought} of {images} images bought already"
                if bought
                else f"buying {stage}: {images} images",
                highlight=False,
                soft_wrap=True,
            )

        def heard(answer: Answer) -> None:
            nonlocal counted
            counted += answer.charged
            self._bars.update(task, completed=counted, note=self._left(answer.remaining))
            if not self._console.is_terminal and counted == images:
                self._console.print(
                    f"buying {stage}: done, {self._left(answer.remaining)}", highlight=False, soft_wrap=True
                )

        return heard

    def _left(self, images: int) -> str:
        left = f"{images} images left in budget"
        if self._allowance is not None and self._allowance.price_per_image:
            left += f", {money(self._allowance.cost_of(images), self._allowance.currency)}"
        return left

    def warning(self, told: str) -> None:
        """See pipeline.Reporter."""
        self._console.print(f"warning: {told}", highlight=False, markup=False, soft_wrap=True)

    def learning(self, how: str) -> None:
        """See pipeline.Reporter."""
        self._console.print(f"learning by {how}", highlight=False, soft_wrap=True)

    def measured(self, told: str) -> None:
        """See pipeline.Reporter."""
        self._console.print(told, highlight=False, soft_wrap=True)

    def choosing(self, stage: str, candidates: int) -> Callable[[int], None]:
        """See pipeline.Reporter."""
        task = self._bars.add_task(f"choosing {stage}", total=candidates, note="")
        if not self._console.is_terminal:
            self._console.print(
                f"choosing {stage} from up to {candidates} candidates", highlight=False, soft_wrap=True
            )
        return lambda looked_at: self._bars.update(task, completed=looked_at)

    def training(self, what: str) -> Callable[[int, int, float], None]:
        """See pipeline.Reporter."""
        task = self._bars.add_task(f"training {what}", total=None, note="")
        if not self._console.is_terminal:
            self._console.print(f"training {what}", highlight=False, soft_wrap=True)

        def heard(step: int, steps: int, loss: float) -> None:
            note = "" if loss != loss else f"loss {loss:.4f}"  # noqa: PLR0124 - NaN: this training reports none
            self._bars.update(task, completed=step, total=steps, note=note)

        return heard
