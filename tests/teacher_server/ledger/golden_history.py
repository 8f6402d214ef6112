"""A fixed history: fixed keys, fixed times, so that every byte of what an audit writes is known.

``python -m tests.teacher_server.ledger.golden_history`` writes the golden files anew; a difference to what is
committed means that what clients hold today could not be verified tomorrow.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teacher_server.ledger import clock
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from tests.ledger_places import LedgerPlace, sqlite_place
from tests.teacher_server.ledger.histories import write_history_into
from tests.teacher_server.ledger.tampering import execute

GOLDEN = Path(__file__).with_name("golden")
EXPORT, RECEIPTS, KEYS = GOLDEN / "history.jsonl", GOLDEN / "receipts.jsonl", GOLDEN / "signing-keys.json"


@contextmanager
def fixed_world() -> Iterator[None]:
    """Time stands still, and signing keys come from numbers. Never for real use."""
    made = iter(range(256))

    class NumberedKey:
        @staticmethod
        def generate() -> Ed25519PrivateKey:
            return Ed25519PrivateKey.from_private_bytes(bytes([next(made)]) * 32)

    with ExitStack() as stack:
        stack.enter_context(patch.object(clock, "moment", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
        signing = "teacher_server.ledger.chain.signing.Ed25519PrivateKey.generate"
        stack.enter_context(patch(signing, NumberedKey.generate))
        yield


def write_golden(place: LedgerPlace, folder: Path) -> None:
    """Make the history in ``place`` and write what an owner exports, a client holds and the server publishes."""
    with fixed_world():
        open_database(place.url, create=True, signing_key=place.signing_key).close()
        execute(place, "UPDATE ledger SET name = '00112233445566778899aabbccddeeff'")
        with place.open() as database:
            write_history_into(database)
            with (folder / EXPORT.name).open("w") as stream:
                write_export(database, "ada", stream)
            keys = Ledger(database).signing_keys()
    lines = (folder / EXPORT.name).read_text().splitlines()
    answers = [line for line in lines[1:] if json.loads(line)["event"]["kind"] == "answer"]
    (folder / RECEIPTS.name).write_text("".join(f"{line}\n" for line in answers))
    (folder / KEYS.name).write_text(keys.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        write_golden(sqlite_place(Path(scratch)), GOLDEN)
