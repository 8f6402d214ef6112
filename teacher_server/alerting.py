"""Telling the owner of budgets that are nearly spent: a log line, and a webhook where there is one.

A thread of its own, which a charge only wakes. What was told is marked in the ledger after it was told, so a crash in
between tells it again, under the same message id; it never loses it.
"""

import hashlib
import json
import logging
import threading
from types import TracebackType
from typing import Self

from shared.wire.contracts import Event
from teacher_server.errors import Refusal
from teacher_server.ledger.clock import now
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.alerts import BudgetAlert, due_alerts, mark_told
from teacher_server.ledger.keys.budget_shares import passed_percent
from teacher_server.webhooks import Undelivered, Webhook

LOOK_EVERY_S = 60.0  # for what another server on the same ledger owed when it was killed
RETRY_AFTER_S = 5.0
_END_S = 2.0
_log = logging.getLogger("teacher_server")


class BudgetAlerts:
    """For as long as the server runs (use with ``with``): looks at the start, and when ``charged`` saw a reason."""

    def __init__(self, database: Database, webhook: Webhook | None) -> None:
        self._database = database
        self._webhook = webhook
        self._wake = threading.Event()
        self._is_ended = False
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="budget alerts", daemon=True)

    def charged(self, event: Event) -> None:
        """Take note of a charge; costs nothing unless it passed a step of its key's budget."""
        before = passed_percent(spent=event.spent - event.images, granted=event.granted)
        if passed_percent(spent=event.spent, granted=event.granted) > before:
            self._wake.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop. A message that is under way is not waited for longer than a moment: it stays owed."""
        self._is_ended = True
        self._wake.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._is_ended:
            self._wake.clear()
            pause_s = LOOK_EVERY_S if self._tell_all() else RETRY_AFTER_S
            self._wake.wait(pause_s)

    def _tell_all(self) -> bool:
        """Tell what is owed; False when something is left."""
        try:
            with self._database.alone() as is_alone:
                # Of several servers on one ledger the other one tells it, unless it is killed.
                return is_alone and all(self._tell(alert) for alert in due_alerts(self._database))
        except Refusal as refusal:
            _log.error("budget alerts: %s (%s)", refusal.detail, refusal.__cause__)
        except Exception:  # whatever it was, the next look may succeed
            _log.exception("budget alerts failed")
        return False

    def _tell(self, alert: BudgetAlert) -> bool:
        message_id = _message_id(alert)
        if message_id not in self._logged:
            self._logged.add(message_id)
            _log.warning(
                "budget: key %s has spent %d of %d images, %d %% or more",
                alert.key_name, alert.spent, alert.granted, alert.percent,
            )  # fmt: skip
        if self._webhook is not None:
            try:
                self._webhook.deliver(message_id, _body(alert))
            except Undelivered as error:
                _log.warning("budget: the webhook did not take the alert for key %s (%s)", alert.key_name, error)
                return False
        if self._is_ended:  # the ledger may be closed
            return False
        mark_told(self._database, alert)
        return True


def _message_id(alert: BudgetAlert) -> str:
    """The same for the same alert, also after a restart."""
    what = f"{alert.ledger}/{alert.key_name}/{alert.granted}/{alert.percent}"
    return "msg_" + hashlib.sha256(what.encode()).hexdigest()[:32]


def _body(alert: BudgetAlert) -> bytes:
    content = {
        "type": "budget.alert",
        "timestamp": now(),
        "data": {
            "ledger": alert.ledger,
            "key": alert.key_name,
            "percent": alert.percent,
            "passed": list(alert.passed),
            "spent": alert.spent,
            "granted": alert.granted,
            "remaining": alert.granted - alert.spent,
        },
    }
    return json.dumps(content, separators=(",", ":")).encode()
