"""A program that charges once and is killed on the way: ``URL NAME BATCH IMAGES MOMENT``.

The moment: before the n-th statement of the charge, at its ``commit`` (before it is sent), or ``after`` it was told.
Without such a moment it ends in good order.
"""

import os
import signal
import sys
from typing import Any

from sqlalchemy import Engine, event

from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from tests.teacher_server.ledger.support import charge, open_ledger

STATEMENTS_MAX = 12  # a charge has fewer


def main() -> None:
    url, name, batch, images, moment = sys.argv[1:]
    database = open_ledger(url)
    key = next(key for key in list_keys(database) if key.name == name)
    if moment.isdecimal():
        left = int(moment)

        def before_statement(*_: Any) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                die()

        event.listen(Engine, "before_cursor_execute", before_statement)
    elif moment == "commit":
        event.listen(Engine, "commit", lambda _: die())
    charge(Ledger(database), key, batch, int(images), value=int(images) / 8)
    die() if moment == "after" else database.close()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
