"""A key's log as it was read, wherever from; and reading it from the teacher's server."""

from dataclasses import dataclass

from distill_client.audit.books import Difference
from distill_client.teachers.protocol import SignedEvent, Teacher
from shared.wire.contracts import Event, SigningKeys, Usage

_LOOKS_MAX = 10


@dataclass(frozen=True)
class TeacherLog:
    """The rows of one key, its counters, and the public keys that the rows are to be verified with.

    ``at`` is when it was taken, where that is not now; ``differences`` is what was wrong with the file it is from,
    which began with the promise of ``events_promised`` rows.
    """

    rows: tuple[SignedEvent, ...]
    usage: Usage
    signing_keys: SigningKeys | None = None
    source: str = "the teacher's server"
    at: str = ""
    differences: tuple[Difference, ...] = ()
    events_promised: int | None = None

    @property
    def events(self) -> list[Event]:
        """The rows without their signatures."""
        return [row.event for row in self.rows]

    @property
    def is_incomplete(self) -> bool:
        """Whether rows are missing by the file's own first line: somebody on its way lost them, or took them."""
        return self.events_promised is not None and len(self.rows) < self.events_promised

    def lacks(self, sequence: int) -> bool:
        """Whether that event is one of those that the file promises and has not."""
        if self.events_promised is None or not self.is_incomplete or sequence > self.events_promised:
            return False
        return all(row.event.sequence != sequence for row in self.rows)


def read_log(teacher: Teacher) -> TeacherLog:
    """The log for this key as it is now. Raises what a Teacher raises."""
    usage = teacher.usage()
    for _ in range(_LOOKS_MAX):
        before, rows = usage, tuple(teacher.signed_events())
        usage = teacher.usage()
        if usage == before:  # else another run bought under the same key while its log was read
            break
    return TeacherLog(rows, usage, teacher.signing_keys())
