"""From another's names or ids of classes to ours, and what becomes of an answer that is none of ours."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from distill_client.errors import ConfigError, TeacherProtocolError

REJECT, ERROR, POOL = "reject", "error", "pool:"
_NAMES_KEPT_MAX = 10_000  # of another's vocabulary, so that a teacher that invents names costs no memory without end
_SHOWN_NAMES = 8


def folded(name: str) -> str:
    """A name without what case and spaces distinguish."""
    return " ".join(name.casefold().split())


class LabelMap:
    """Theirs to ours, for all answers of one teacher; may be used from several threads.

    A name is looked up as it is (or folded, where that is asked for): in the map first, among our classes then. What
    is found in neither is rejected, is an error, or is pooled into one class. Which names came is remembered.
    """

    def __init__(
        self, classes: Sequence[str], names: Mapping[str, str], *, unmapped: str = ERROR, folds: bool = False
    ) -> None:
        self.unmapped = unmapped
        self._folds = folds
        self._theirs = frozenset(names)
        own = {self._key(name): name for name in classes}
        if len(own) < len(classes):
            raise ConfigError("fold_labels is true, and two classes differ by case or spaces only; leave it out")
        mapped: dict[str, str] = {}
        for name, ours in names.items():
            if mapped.setdefault(self._key(name), ours) != ours:
                raise ConfigError(f"label_map: {name!r} is mapped twice, once its case and spaces are folded")
        self._ours = own | mapped
        self._lock = threading.Lock()
        self._came: Counter[str] = Counter()
        self._best: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        """Whether the file's map names it."""
        return name in self._theirs

    def _key(self, name: str) -> str:
        return folded(name) if self._folds else name

    def ours(self, name: str) -> str | None:
        """The class of ours that another's name means; None for one that is rejected.

        Raises TeacherProtocolError where that is an error.
        """
        found = self._ours.get(self._key(name))
        if found is None and self.unmapped.startswith(POOL):
            found = self.unmapped.removeprefix(POOL)
        if found is None and self.unmapped == ERROR:
            raise TeacherProtocolError(
                f"the teacher answered {name!r}, which is none of the file's classes nor in its label_map; map it "
                f"(`distill teacher map` proposes how), "
                f'or say what becomes of such answers: unmapped = "{REJECT}" or "{POOL}CLASS"'
            )
        return found

    def scores_of_ours(self, scores: Mapping[str, float]) -> dict[str, float]:
        """One image's scores by our classes; several of theirs that mean one of ours are added.

        Where names are rejected, what is left is what is known of our classes given that the image shows one of them:
        the scores are divided by 1 less what was rejected, or by their sum where independent scores exceed that.
        Empty when nothing is left.
        """
        mapped: dict[str, float] = {}
        rejected = 0.0
        self._note(scores)
        for name, score in scores.items():
            if (ours := self.ours(name)) is None:
                rejected += score
            else:
                mapped[ours] = mapped.get(ours, 0.0) + score
        together = sum(mapped.values())
        if not rejected or not 0 < together < float("inf"):
            return mapped if together or not rejected else {}
        whole = max(1.0 - rejected, together)
        return {name: score / whole for name, score in mapped.items()}

    def _note(self, scores: Mapping[str, float]) -> None:
        best = max(scores, key=lambda name: scores[name], default=None)
        with self._lock:
            for name in scores:
                if name in self._came or len(self._came) < _NAMES_KEPT_MAX:
                    self._came[name] += 1
                    self._best[name] += name == best

    def names_that_came(self) -> Counter[str]:
        """In how many images' answers each name was, be it mapped or not."""
        with self._lock:
            return self._came.copy()

    def best_that_came(self) -> Counter[str]:
        """In how many images' answers each name had the highest score."""
        with self._lock:
            return self._best.copy()

    def describe_unmapped(self) -> str:
        """The commonest names that were rejected, for messages; empty when none was."""
        unknown = [
            (name, count)
            for name, count in self.names_that_came().most_common()
            if self._ours.get(self._key(name)) is None
        ]
        shown = ", ".join(f"{name!r} ({count})" for name, count in unknown[:_SHOWN_NAMES])
        return shown + (f" and {len(unknown) - _SHOWN_NAMES} more" if len(unknown) > _SHOWN_NAMES else "")


class Usefulness:
    """Whether a teacher's answers are of use: stops a run whose first answers are mostly none of our classes."""

    def __init__(self, labels: LabelMap, *, first: int = 20) -> None:
        """``first``: images that must be answered before anything is said."""
        self._labels = labels
        self._first = first
        self._lock = threading.Lock()
        self._answered = self._rejected = 0

    def count(self, answered: int, rejected: int) -> None:
        """So many images were answered, and so many of the answers say nothing."""
        with self._lock:
            self._answered += answered
            self._rejected += rejected

    def require(self) -> None:
        """Raise ConfigError when most answers so far were rejected, before more are paid for."""
        with self._lock:
            answered, rejected = self._answered, self._rejected
        if answered >= self._first and rejected > answered / 2:
            names = self._labels.describe_unmapped()
            raise ConfigError(
                f"{rejected} of the first {answered} answers are none of the file's classes, and nothing can be "
                f"learnt from them; no more are bought. Not mapped: {names or 'the teacher named nothing'}. Map them "
                "in [label_map] (`distill teacher map` proposes how), then go on with `distill resume RUN --teacher "
                "FILE`"
            )
