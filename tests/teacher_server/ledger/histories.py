"""Ledgers with something in them: two keys, a rotation of the signing key, a refusal, a revocation."""

from contextlib import suppress

from teacher_server.errors import Refusal
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import grant_images, revoke_key
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key
from tests.ledger_places import LedgerPlace, Prepared
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.support import new_key

ADA, BOB = 1, 2  # their ids
LAST = 9  # ada's last event


def write_history(place: LedgerPlace) -> None:
    """ada: create, four charges of 3, 1, 4 and 2 images, a grant, a refusal, two more charges. bob: one, revoked."""
    if place.is_empty:
        _HISTORY.put_into(place)
        return
    with place.open() as database:
        write_history_into(database)


def write_history_into(database: Database) -> None:
    """As ``write_history``."""
    ledger = Ledger(database)
    ada, bob = new_key(database, "ada", budget=10), new_key(database, "bob", budget=5)
    for number, images in enumerate([3, 1, 4, 2]):
        charge(ledger, ada, f"ada-{number}", images)
    with suppress(Refusal):
        charge(ledger, ada, "ada-too-much", 7)
    grant_images(database, name="ada", images=20)
    charge(ledger, bob, "bob-0", 5)
    rotate_signing_key(database)
    for number, images in ((4, 1), (5, 9)):
        charge(ledger, ada, f"ada-{number}", images)
    revoke_key(database, name="bob")


_HISTORY = Prepared(write_history_into)
