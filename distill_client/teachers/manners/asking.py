"""Asking until there is an answer that asking again would not change, or the deadline passes."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar

import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from distill_client.teachers.manners.limiter import Limiter, NoPlace, Place
from distill_client.teachers.manners.patience import Patience, Retryable
from distill_client.teachers.manners.pauses import spent_limit_s

_FIRST_PAUSE_S, _PAUSE_S_MAX = 0.4, 10.0
Answer = TypeVar("Answer")


class Attempts(Protocol):
    """Who is told of every attempt at a purchase, before a byte of it leaves and when it has failed."""

    def begins(self) -> None:
        """An attempt is about to be sent. Raises what forbids it."""
        ...

    def failed(self, error: Exception) -> None:
        """It brought no answer; ``error`` says whether it may have been charged, where anything does."""
        ...


class Uncounted:
    """Attempts that nobody counts: the teacher counts, and the same request asked again is one purchase."""

    def begins(self) -> None:
        """See Attempts."""

    def failed(self, error: Exception) -> None:
        """See Attempts."""


def announce_retries(say: Callable[[str], None]) -> None:
    """Have ``say`` told, in a sentence, whenever a request is about to be repeated."""

    def tell(details: RetryDetails) -> None:
        say(f"the teacher does not answer ({details.caused_by}); asking again in {details.wait_for:.1f} s")

    set_on_retry_hooks([tell])


class Manners:
    """How one teacher is asked, by all threads together."""

    def __init__(self, deadline_s: float, *, requests_in_flight: int) -> None:
        self.deadline_s = deadline_s
        self.limiter = Limiter(requests_in_flight)

    def ask(
        self, attempt: Callable[[], Answer], *, where: str, purchase: Attempts | None = None, settles: bool = True
    ) -> Answer:
        """Call ``attempt``, again while it raises Retryable and there is time; ``where`` is for messages.

        A ``purchase`` takes its place among the requests in flight and is told of every attempt; ``settles`` is
        whether the same one, asked again, is charged once. Raises TeacherUnavailable, and what ``attempt`` raises.
        """
        patience = Patience(self.deadline_s)
        pauses = 0

        def backoff(error: Exception) -> bool | float:
            nonlocal pauses
            decided = isinstance(error, Retryable) and patience.decide(error)
            if decided is not True:
                return decided
            pauses += 1
            longest_s = min(_PAUSE_S_MAX, _FIRST_PAUSE_S * 2 ** min(pauses - 1, 10))
            return random.uniform(0, longest_s)  # noqa: S311 - full jitter: no two clients keep in step

        try:
            for retry in stamina.retry_context(on=backoff, attempts=None, timeout=None):
                with retry:
                    return attempt() if purchase is None else self._purchase(attempt, purchase, patience)
        except Retryable as error:
            is_purchase = purchase is not None
            raise patience.exhausted(error, where, is_purchase=is_purchase, settles=settles) from error
        raise AssertionError("unreachable: the retry loop returns or raises")

    def heed(self, headers: Mapping[str, str]) -> None:
        """Send nothing more until a limit that an answer's headers say is used up is there again."""
        if (pause_s := spent_limit_s(headers)) is not None:
            self.limiter.pause(pause_s)

    def _purchase(self, attempt: Callable[[], Answer], purchase: Attempts, patience: Patience) -> Answer:
        with self._place(patience) as place:
            patience.waited(place.waited_s)
            purchase.begins()
            try:
                answer = attempt()
            except Exception as error:
                purchase.failed(error)
                if isinstance(error, Retryable) and error.pressure:
                    self.limiter.pushed_back(place.had_at, error.after_s)
                raise
        self.limiter.succeeded()
        return answer

    @contextmanager
    def _place(self, patience: Patience) -> Iterator[Place]:
        with ExitStack() as held:
            try:
                place = held.enter_context(self.limiter.place(self.deadline_s))
            except NoPlace as error:
                patience.give_up()
                raise Retryable(str(error), after_s=error.after_s) from error
            yield place
