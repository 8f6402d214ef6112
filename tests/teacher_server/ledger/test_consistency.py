"""What a running server knows of its ledger: new links are walked, old ones at times, mended ones believed."""

import logging

import pytest

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.audit import verification
from teacher_server.ledger.audit.consistency import Consistency
from teacher_server.ledger.keys.issuing import list_keys
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.rotation import rotate_signing_key
from tests.ledger_places import LedgerPlace
from tests.teacher_server.ledger.histories import ADA, BOB, write_history
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.ledger.tampering import execute


def is_sold(consistency: Consistency, key_id: int) -> bool:
    try:
        consistency.require_consistent(key_id)
    except Refusal as refusal:
        return refusal.code is not ErrorCode.LEDGER_INCONSISTENT
    return True


def is_ready(consistency: Consistency) -> bool:
    try:
        consistency.require_all_consistent()
    except Refusal as refusal:
        return refusal.code is not ErrorCode.LEDGER_INCONSISTENT or "ada" in refusal.detail
    return True


def test_a_counter_that_is_changed_and_mended(place: LedgerPlace, caplog: pytest.LogCaptureFixture) -> None:
    write_history(place)
    with place.open() as database:
        consistency = Consistency(database)
        consistency.check(is_whole=True)
        assert is_ready(consistency)
        execute(place, "UPDATE keys SET spent = 19 WHERE id = 1")
        for _ in range(2):
            consistency.check(is_whole=False)
            assert (is_ready(consistency), is_sold(consistency, ADA), is_sold(consistency, BOB)) == (
                False,
                False,
                True,
            )
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert said == ["ledger inconsistent, key ada: the counter says 19 spent, the events add up to 20"], "once"
        execute(place, "UPDATE keys SET spent = 20 WHERE id = 1")
        consistency.check(is_whole=False)
        assert (is_ready(consistency), is_sold(consistency, ADA)) == (True, True)
        assert caplog.records[-1].getMessage() == "ledger consistent again: key ada"


def test_only_what_is_new_is_walked_and_all_of_it_from_time_to_time(
    place: LedgerPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_history(place)
    monkeypatch.setattr(verification, "PAGE_EVENTS", 4)
    with place.open() as database:
        consistency, ada = Consistency(database), list_keys(database)[0]
        pauses: list[int] = []
        consistency.check(is_whole=True, pause=lambda: pauses.append(1))
        assert len(pauses) == 2 + 2, "9 events of one key in pages of 4, 3 of the other"
        execute(place, "UPDATE events SET teacher = 'x' WHERE key_id = 1 AND sequence = 3")
        rotate_signing_key(database)
        for number in range(9):
            charge(Ledger(database), ada, f"more-{number}", 1)
        pauses.clear()
        consistency.check(is_whole=False, pause=lambda: pauses.append(1))
        assert len(pauses) == 2 + 2
        assert is_ready(consistency), "an old event is looked at with a whole walk"
        consistency.check(is_whole=True)
        assert not is_sold(consistency, ADA)
        execute(place, "UPDATE events SET teacher = 'numbers' WHERE key_id = 1 AND sequence = 3")
        consistency.check(is_whole=False)
        assert is_ready(consistency)


def test_images_of_an_old_event_are_summed_with_every_look(place: LedgerPlace) -> None:
    write_history(place)
    with place.open() as database:
        consistency = Consistency(database)
        consistency.check(is_whole=True)
        execute(place, "UPDATE events SET images = 1 WHERE key_id = 1 AND sequence = 2")
        consistency.check(is_whole=False)
        assert not is_sold(consistency, ADA)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_tail_cut_off_with_all_that_belongs_to_it_is_remembered(
    place: LedgerPlace, caplog: pytest.LogCaptureFixture, is_whole: bool
) -> None:
    write_history(place)
    with place.open() as database:
        consistency, ada = Consistency(database), list_keys(database)[0]
        consistency.check(is_whole=True)
        execute(place, "DELETE FROM events WHERE key_id = 1 AND sequence = 9",
                "DELETE FROM answers WHERE key_id = 1 AND sequence = 9",
                "DELETE FROM event_images WHERE key_id = 1 AND sequence = 9",
                "UPDATE keys SET spent = 11 WHERE id = 1")  # fmt: skip
        consistency.check(is_whole=is_whole)
        assert not is_sold(consistency, ADA)
        assert "key ada, event 9: was there at an earlier look; now the chain ends at event 8" in caplog.text
        charge(Ledger(database), ada, "another", 9)  # as another process might
        consistency.check(is_whole=is_whole)
        assert not is_sold(consistency, ADA)
        assert "event 9: is not the event that was there at an earlier look" in caplog.text


def test_a_key_that_is_gone_and_signing_keys_that_are_wrong(place: LedgerPlace) -> None:
    write_history(place)
    with place.open() as database:
        consistency = Consistency(database)
        consistency.check(is_whole=True)
        execute(place, "UPDATE signing_keys SET retired_at = NULL")
        consistency.check(is_whole=False)
        assert not is_ready(consistency)
        assert is_sold(consistency, BOB), "no chain is wrong"
        execute(place, "UPDATE signing_keys SET retired_at = '2999' WHERE endorsed_by = ''")
        consistency.check(is_whole=False)
        assert is_ready(consistency)
        for table in ("event_images", "answers", "events"):
            execute(place, f"DELETE FROM {table} WHERE key_id = 2")  # noqa: S608
        execute(place, "DELETE FROM keys WHERE id = 2")
        consistency.check(is_whole=False)
        assert not is_ready(consistency)
        assert is_sold(consistency, ADA)
