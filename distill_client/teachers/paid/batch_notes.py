"""The idempotency keys of every recorded batch, beside the store: what is left to ask with when the store is lost.

A stage's keys are noted after it is recorded and before any of it is sent. A key is made of the run's id and the
very bytes of its batch, so a stage that is rendered again can be compared with what was paid for, before it costs.
"""

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from distill_client.durable import write_durably
from distill_client.errors import RunStoreError

_CONTENT = TypeAdapter(dict[str, tuple[str, ...]])


class BatchNotes:
    """The notes of one run, in a file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def exist(self) -> bool:
        """Whether anything was noted; a run of an earlier version of this program has no notes."""
        return self._path.exists()

    def keys(self, stage: str) -> tuple[str, ...] | None:
        """A stage's keys in the order of its batches; None when it was not noted. Raises RunStoreError."""
        return self._read().get(stage)

    def all_keys(self) -> frozenset[str]:
        """The keys of every noted stage. Raises RunStoreError."""
        return frozenset(key for keys in self._read().values() for key in keys)

    def note(self, stage: str, keys: tuple[str, ...]) -> None:
        """Write down a stage's keys; they are on the disk when this returns. Raises RunStoreError, OSError."""
        noted = self._read()
        if noted.get(stage) != keys:
            write_durably(self._path, (json.dumps({**noted, stage: keys}, indent=1) + "\n").encode())

    def _read(self) -> dict[str, tuple[str, ...]]:
        if not self._path.exists():
            return {}
        try:
            return _CONTENT.validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise RunStoreError(
                f"{self._path}: the notes of what was bought cannot be read ({reason}); where {self._path.name} is "
                "the only thing that is damaged, remove it and it is written again"
            ) from error
