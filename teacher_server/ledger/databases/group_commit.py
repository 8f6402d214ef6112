"""One writer thread for SQLite: charges that wait together share one transaction, and so one fsync.

Each runs in a savepoint of its own, so that one that fails leaves its neighbours alone. What any of them found out,
a refusal too, is told only after the commit: until then it rests on sums that are not durable.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import Refusal

GROUP_MAX = 256
T = TypeVar("T")
Transaction = Callable[[], AbstractContextManager[Connection]]


@dataclass(frozen=True)
class _Job:
    work: Callable[[Connection], Any]
    done: Future[Any]


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class GroupCommit:
    """Runs work in durable transactions, as many waiting pieces as there are in each."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._closing = threading.Lock()
        self.commits = 0
        self._thread = threading.Thread(target=self._loop, name="ledger writer", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do ``work`` and return what it returned, once that is on the disk; or raise what it raised.

        Raises Refusal(ledger_unavailable) when the transaction could not be begun or committed.
        """
        job = _Job(work, Future())
        with self._closing:
            if self._is_closed:
                raise Refusal(ErrorCode.LEDGER_UNAVAILABLE, "the server is stopping; ask again", charged="no")
            self._jobs.put(job)
        result: T = job.done.result()
        return result

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        with self._closing:
            self._is_closed = True
            self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            is_last = False
            while len(jobs) < GROUP_MAX and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    is_last = True
                    break
                jobs.append(job)
            self._commit(jobs)
            if is_last:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        outcomes: list[_Outcome] = []
        try:
            with self._transaction() as connection:
                outcomes = [_in_savepoint(connection, job.work) for job in jobs]
            self.commits += 1
        except _Spoilt as spoilt:
            self._one_by_one(jobs, spoilt)
        except BaseException as error:
            for job in jobs:
                job.done.set_exception(_copy(error))
        else:
            for job, outcome in zip(jobs, outcomes, strict=True):
                _tell(job, outcome)

    def _one_by_one(self, jobs: list[_Job], spoilt: "_Spoilt") -> None:
        """The database refused one of them and with it the transaction: which one shows when each has its own."""
        if len(jobs) == 1:
            jobs[0].done.set_exception(spoilt.as_refusal())
            return
        for job in jobs:
            self._commit([job])


class _Spoilt(Exception):
    """The database failed inside a savepoint; nothing of the transaction is committed."""

    def as_refusal(self) -> Refusal:
        refusal = Refusal(
            ErrorCode.LEDGER_UNAVAILABLE, "the ledger cannot be written now; nothing was charged", charged="no"
        )
        refusal.__cause__ = self.__cause__
        return refusal


def _in_savepoint(connection: Connection, work: Callable[[Connection], Any]) -> _Outcome:
    try:
        with connection.begin_nested():
            return _Outcome(value=work(connection))
    except (SQLAlchemyError, OSError) as error:
        raise _Spoilt from error
    except Exception as error:
        return _Outcome(error=error)


def _tell(job: _Job, outcome: _Outcome) -> None:
    if outcome.error is not None:
        job.done.set_exception(outcome.error)
    else:
        job.done.set_result(outcome.value)


def _copy(error: BaseException) -> BaseException:
    """One object per waiting thread: each adds its own traceback when it raises."""
    if not isinstance(error, Refusal):
        return error
    copy = Refusal(error.code, error.detail, **error.members)
    copy.__cause__ = error.__cause__
    return copy
