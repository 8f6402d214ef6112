"""What a running server does in the background: verify its ledger, let stored answers expire, note expired keys."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from teacher_server.errors import Refusal
from teacher_server.ledger.audit.consistency import Consistency
from teacher_server.ledger.charging.answers import expire_bodies
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.expiry import note_expired_keys
from teacher_server.settings import TeacherSettings

PASSES_PER_WHOLE_WALK = 60
_PAUSE_S_MAX = 0.5
_log = logging.getLogger("teacher_server")


class Upkeep:
    """A thread of its own for as long as the server runs (use with ``with``); a duty that fails is tried again."""

    def __init__(self, database: Database, consistency: Consistency, settings: TeacherSettings) -> None:
        self._database = database
        self._consistency = consistency
        self._settings = settings
        self._ended = threading.Event()
        self._passes = 0
        self._page_began = 0.0
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop, within a page of rows."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for duty in (self._database.note_restore, self._verify, self._expire_answers, self._note_expired_keys):
                if not self._do(duty):
                    return
            if self._ended.wait(self._settings.verify_interval_s):
                return

    def _do(self, duty: Callable[[], None]) -> bool:
        """Whether to go on: not once the server has ended."""
        try:
            duty()
        except _Ended:
            return False
        except Refusal as refusal:
            _log.error("upkeep: %s (%s)", refusal.detail, refusal.__cause__)
        except Exception:  # whatever it was, the other duties are done, and this one again
            _log.exception("upkeep failed")
        return not self._ended.is_set()

    def _verify(self) -> None:
        is_whole = self._passes % PASSES_PER_WHOLE_WALK == 0
        self._page_began = time.monotonic()
        self._consistency.check(is_whole=is_whole, pause=self._pause)
        self._passes += 1  # a whole walk that failed is not one

    def _pause(self) -> None:
        """Rest as long as the last page took: half of one processor at most, and the server's threads come first."""
        took_s = time.monotonic() - self._page_began
        if self._ended.wait(min(took_s, _PAUSE_S_MAX)):
            raise _Ended
        self._page_began = time.monotonic()

    def _expire_answers(self) -> None:
        emptied = expire_bodies(
            self._database, kept_s=self._settings.answer_kept_s, bytes_max=self._settings.answers_bytes_max
        )
        if emptied:
            _log.info("upkeep: the values of %d stored answers have expired", emptied)

    def _note_expired_keys(self) -> None:
        for name in note_expired_keys(self._database):
            _log.info("upkeep: key %s has expired", name)


class _Ended(Exception):
    """The server ends in the middle of a duty."""
