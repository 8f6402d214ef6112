"""What an audit finds: one sentence, and whose chain and which event it is about."""

from dataclasses import dataclass

FAULTS_MAX = 1000  # of one key; who rewrote a whole chain need not fill the memory


@dataclass(frozen=True)
class Fault:
    """Something that an honest ledger never holds; ``key_name`` is empty where it is about no single key."""

    key_name: str
    sequence: int | None
    what: str

    def __str__(self) -> str:
        place = [f"key {self.key_name}"] if self.key_name else ["the ledger"]
        if self.sequence is not None:
            place.append(f"event {self.sequence}")
        return f"{', '.join(place)}: {self.what}"


def shown(value: object, *, length: int = 64) -> str:
    """Whatever stands in a cell, for a message: short, printable, on one line."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= length else f"{text[:length]}..."
