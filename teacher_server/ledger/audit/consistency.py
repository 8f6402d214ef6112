"""Always verifying: what a running server knows of whether its ledger adds up, key by key.

A pass re-sums every key and walks what was appended since the last one; a key that had a fault is walked from its
beginning each time, so that a ledger that was mended is believed again.
"""

import logging
import threading

from shared.counting import counted
from shared.wire.contracts import Event
from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal
from teacher_server.ledger.audit.chain_walk import ChainWalk
from teacher_server.ledger.audit.faults import Fault, shown
from teacher_server.ledger.audit.verification import Pause, list_key_ids, verify_around, verify_key
from teacher_server.ledger.databases.database import Database

_FAULTS_LOGGED = 10  # of one key, each time they change
_AROUND = 0  # no key has this id: what is wrong with no single key
_log = logging.getLogger("teacher_server")


class Consistency:
    """Verdicts on one ledger. ``check`` belongs to one thread; the others may be asked from any."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._walks: dict[int, ChainWalk] = {}
        self._faults: dict[int, list[Fault]] = {}
        self._lock = threading.Lock()

    def check(self, *, is_whole: bool, pause: Pause = lambda: None) -> None:
        """One pass, over whole chains or over what is new. Raises Refusal(ledger_unavailable).

        ``pause`` is called between any two transactions, none of which reads more than a few hundred rows.
        """
        around = verify_around(self._database, is_whole=is_whole or _AROUND in self._faults)[1]
        self._judge(_AROUND, "the ledger", around)
        key_ids, unreadable = list_key_ids(self._database)
        for fault in unreadable:
            self._judge(int(fault.key_name.removeprefix("number ")), fault.key_name, [fault])
        for key_id, name in key_ids.items():
            pause()
            self._check_key(key_id, shown(name), is_whole=is_whole, pause=pause)
        for key_id in self._walks.keys() - key_ids.keys():
            name = self._walks[key_id].key_name
            self._judge(key_id, f"key {name}", [Fault(name, None, "was there at the last look, and is not any more")])

    def require_consistent(self, key_id: int) -> None:
        """Raise Refusal(ledger_inconsistent) for a key whose record has a fault."""
        with self._lock:
            is_sound = key_id not in self._faults
        if not is_sound:
            raise Refusal(
                ErrorCode.LEDGER_INCONSISTENT,
                "the record of this key does not add up, so nothing is answered or charged until the owner has "
                "mended it; its events can still be read",
            )

    def require_all_consistent(self) -> None:
        """Raise Refusal(ledger_inconsistent) when anything has a fault; names are for the log, not for strangers."""
        with self._lock:
            count = len(self._faults)
        if count:
            raise Refusal(
                ErrorCode.LEDGER_INCONSISTENT,
                f"what is recorded of {counted(count, 'key')} does not add up; the server's log says which",
            )

    def _check_key(self, key_id: int, name: str, *, is_whole: bool, pause: Pause) -> None:
        known = self._walks.get(key_id)
        if known is not None and known.key_name == name and not is_whole and key_id not in self._faults:
            verdict = verify_key(self._database, key_id, known, pause=pause)
            if not verdict.faults:
                self._walks[key_id] = verdict.walk
                return
        seen: dict[int, str] = {}

        def watch(event: Event) -> list[Fault]:
            if known is not None and event.sequence == known.sequence:
                seen[event.sequence] = event.hash
            return []

        verdict = verify_key(self._database, key_id, ChainWalk(name), watch=watch, pause=pause)
        faults = verdict.faults + _forgotten(verdict.walk, known, seen)
        if not faults:
            self._walks[key_id] = verdict.walk
        self._judge(key_id, f"key {name}", faults)

    def _judge(self, key_id: int, name: str, faults: list[Fault]) -> None:
        with self._lock:
            before = self._faults.pop(key_id, [])
            if faults:
                self._faults[key_id] = faults
        if faults and faults != before:
            for fault in faults[:_FAULTS_LOGGED]:
                _log.error("ledger inconsistent, %s", fault)
            if len(faults) > _FAULTS_LOGGED:
                _log.error("ledger inconsistent, %s: %s", name, counted(len(faults) - _FAULTS_LOGGED, "more fault"))
        elif before and not faults:
            _log.warning("ledger consistent again: %s", name)


def _forgotten(walk: ChainWalk, known: ChainWalk | None, seen: dict[int, str]) -> list[Fault]:
    """A chain without what this process has seen of it, and without a restore event that says why."""
    if known is None or walk.restores > known.restores or seen.get(known.sequence) == known.hash:
        return []
    if known.sequence in seen:
        what = "is not the event that was there at an earlier look: the chain was rewritten"
    else:
        what = f"was there at an earlier look; now the chain ends at event {walk.sequence}: its tail was cut off"
    return [Fault(walk.key_name, known.sequence, what)]
