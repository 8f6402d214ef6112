"""Another process on the same ledger: ``python -m tests.teacher_server.ledger.worker URL NAME BATCH...``.

Says ``ready``, waits for a line, then charges its batches in order and says, one JSON line each, what became of it.
"""

import json
import sys

from teacher_server.errors import Refusal
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from tests.teacher_server.ledger.support import charge, open_ledger


def main(ledger_url: str, name: str, batches: list[int]) -> None:
    print("ready", flush=True)  # noqa: T201 - this is how processes speak here
    sys.stdin.readline()
    database = open_ledger(ledger_url)
    key = next(key for key in list_keys(database) if key.name == "ada")
    for number, images in enumerate(batches):
        try:
            outcome = {
                "asked": f"{name}-{number}",
                "images": charge(Ledger(database), key, f"{name}-{number}", images).event.images,
            }
        except Refusal as refusal:
            outcome = {"asked": f"{name}-{number}", "refused": refusal.code.value}
        print(json.dumps(outcome), flush=True)  # noqa: T201
    database.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(images) for images in sys.argv[3:]])
