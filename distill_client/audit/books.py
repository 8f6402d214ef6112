"""The result of an audit, for both kinds of books: a teacher's that counts, and the client's own.

Of a teacher that counts: three counts from three places, every difference explained, and the last receipt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from shared.counting import counted
from shared.wire.contracts import Event, Receipt

_FAULTS_SHOWN = 10

# unfetched: charged, but its answer is not here, and to be had at no charge. evidence: this side holds a receipt that
# the teacher's log contradicts. log: the log contradicts itself, or what it is signed with. here: this side's own
# record is damaged. export: the file is not a whole or recent log.
Kind = Literal["unfetched", "evidence", "log", "here", "export"]


@dataclass(frozen=True)
class Difference:
    """One disagreement, in a sentence that says what to do.

    Where there is a receipt against the teacher it is here, with what the log has in its place.
    """

    kind: Kind
    sentence: str
    receipt: Receipt | None = None
    in_log: Event | None = None


class Books(Protocol):
    """What both kinds of audits tell, and all that summaries, reports and commands know of either."""

    @property
    def is_equal(self) -> bool:
        """Whether everything that was compared agrees."""
        ...

    @property
    def faults(self) -> tuple[str, ...]:
        """The disagreements' sentences."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """Images by who counts them or what came of them: the same keys in summary.json under ``images``."""
        ...

    @property
    def sentence(self) -> str:
        """The result in one sentence, for whoever is handed the student."""
        ...

    def describe(self) -> str:
        """The disagreements, for people."""
        ...

    def listing(self) -> list[str]:
        """Lines that belong to the result without being disagreements."""
        ...

    def as_json(self) -> dict[str, Any]:
        """What scripts get."""
        ...

    def as_summary(self) -> dict[str, Any]:
        """What summary.json says of it beside the counts."""
        ...


@dataclass(frozen=True)
class Audit:
    """Three counts from three places (own store, the key's counter, the log's rows), and every disagreement.

    ``receipts`` of ``answers`` have one that verifies, by the key pinned with the fingerprint ``pinned`` or one that
    follows from it; ``recomputed`` answers came again after their stored bodies had expired.
    """

    bought: int
    charged_by_server: int
    in_audit_log: int
    spent_by_other_runs: int
    differences: tuple[Difference, ...] = ()
    answers: int = 0
    receipts: int = 0
    recomputed: int = 0
    pinned: str = ""
    last_receipt: Receipt | None = None
    log: str = "the teacher's server"

    @property
    def faults(self) -> tuple[str, ...]:
        """The disagreements' sentences."""
        return tuple(difference.sentence for difference in self.differences)

    @property
    def is_equal(self) -> bool:
        """Whether all three counts agree and no row does not."""
        return not self.differences and self.bought == self.charged_by_server == self.in_audit_log

    @property
    def counts(self) -> dict[str, int]:
        """See Books."""
        return {
            "bought": self.bought,
            "charged_by_server": self.charged_by_server,
            "in_audit_log": self.in_audit_log,
        }

    @property
    def sentence(self) -> str:
        """The result in one sentence, for whoever is handed the student."""
        if not self.is_equal:
            first = f": {self.faults[0]}" if self.faults else ""
            count = counted(len(self.differences), "difference")
            return (
                f"The two sides do not agree ({self.bought:,} images counted by the client, "
                f"{self.charged_by_server:,} charged, {self.in_audit_log:,} in the log of {self.log}; {count})"
                f"{first}."
            )
        agreed = (
            f"{self.bought:,} images were paid for: counted by the client, charged to the key, and in the log of "
            f"{self.log}, row by row the same"
        )
        return f"{agreed}; {self._proof()}."

    def _proof(self) -> str:
        if not self.pinned:
            return "counts not proved by receipts, because the teacher's server does not sign any"
        if self.receipts == self.answers:
            proof = f"every one of the {self.answers:,} answers has a receipt"
        else:
            proof = (
                f"{self.receipts:,} of {self.answers:,} answers have a receipt, the others are from before the "
                "server signed"
            )
        if self.last_receipt is not None:
            proof += f", the last for event {self.last_receipt.event.sequence}"
        proof += f", verified by the signing key pinned as {self.pinned}"
        return proof + (f" ({self.recomputed:,} answers were computed again)" if self.recomputed else "")

    def describe(self) -> str:
        """The disagreements, for people."""
        counts = f"bought {self.bought}, charged {self.charged_by_server}, in the audit log {self.in_audit_log}"
        shown = list(self.faults[:_FAULTS_SHOWN])
        if len(self.faults) > _FAULTS_SHOWN:
            shown.append(f"... and {len(self.faults) - _FAULTS_SHOWN} more")
        return "; ".join([counts, *shown])

    def listing(self) -> list[str]:
        """See Books."""
        return [f"(other runs with this key: {self.spent_by_other_runs:,})"]

    def as_summary(self) -> dict[str, Any]:
        """See Books."""
        return {
            "audit": {
                "equal": self.is_equal,
                "sentence": self.sentence,
                "faults": list(self.faults),
                "counted_by": "server",
                "receipts": self.receipts,
                "pinned": self.pinned,
            },
            "last_receipt": None if self.last_receipt is None else self.last_receipt.model_dump(),
        }

    def as_json(self) -> dict[str, Any]:
        """See Books."""
        return {
            **self.counts,
            "spent_by_other_runs": self.spent_by_other_runs,
            "equal": self.is_equal,
            "sentence": self.sentence,
            "faults": list(self.faults),
            "differences": [{"kind": each.kind, "sentence": each.sentence} for each in self.differences],
            "answers": self.answers,
            "receipts": self.receipts,
            "recomputed": self.recomputed,
            "pinned": self.pinned,
            "last_receipt": None if self.last_receipt is None else self.last_receipt.model_dump(),
        }


def sentences(kind: Kind, found: Sequence[str]) -> list[Difference]:
    """Differences that need no receipt, from their sentences."""
    return [Difference(kind, sentence) for sentence in found]
