"""Another process on the same ledger, which a fork server starts: ``URL NAME FILE BATCH...``.

Waits for the file, then charges its batches in order and says, one JSON line each, what became of it.
"""

import json
import sys
import time
from pathlib import Path

from teacher_server.errors import Refusal
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from tests.teacher_server.ledger.support import charge, open_ledger


def main() -> None:
    _, ledger_url, name, start_file, *batches = sys.argv
    while not Path(start_file).exists():
        time.sleep(0.002)
    database = open_ledger(ledger_url)
    key = next(key for key in list_keys(database) if key.name == "ada")
    for number, images in enumerate(map(int, batches)):
        try:
            outcome = {
                "asked": f"{name}-{number}",
                "images": charge(Ledger(database), key, f"{name}-{number}", images).event.images,
            }
        except Refusal as refusal:
            outcome = {"asked": f"{name}-{number}", "refused": refusal.code.value}
        print(json.dumps(outcome), flush=True)  # noqa: T201 - this is how processes speak here
    database.close()
