"""Reading the bundles again while serving: on SIGHUP, which `teacher reload` sends and waits for.

The server writes a small file beside its ledger: who it is, how many reloads have begun, how the last one ended.
Whoever wants a reload reads that count, sends SIGHUP and waits for the end of a later one, which began after the
count was read and so saw every change made before. Two who ask at once may share one.
"""

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ValidationError

from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.address import beside_ledger
from teacher_server.ledger.databases.server_lock import is_held_by_server

if TYPE_CHECKING:  # torch, whose two seconds `teacher reload` need not wait
    from teacher_server.teachers.catalogue import Catalogue
    from teacher_server.teachers.teacher import Teacher

    Load = Callable[[list[Teacher]], list[Teacher]]

POLL_S = 0.05
_log = logging.getLogger("teacher_server")


class Outcome(BaseModel):
    """How one reload ended; ``teachers`` are those served since, each with its version."""

    number: int
    is_done: bool
    message: str
    teachers: list[tuple[str, str]]


class ServerState(BaseModel):
    """What the server tells those on its machine."""

    pid: int
    host: str
    reloads_begun: int = 0
    last: Outcome | None = None


class Reloader:
    """Reloads in a thread of its own, one at a time, for as long as the server runs (use with ``with``)."""

    def __init__(self, ledger_url: str, catalogue: "Catalogue", load: "Load") -> None:
        self._file = state_file(ledger_url)
        self._catalogue = catalogue
        self._load = load
        self._state = ServerState(pid=os.getpid(), host=socket.gethostname())
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()  # its put is safe in a signal handler
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def __enter__(self) -> Self:
        """Listen for SIGHUP; call it in the main thread."""
        self._write()
        signal.signal(signal.SIGHUP, lambda *_: self._wanted.put(True))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop listening. A reload under way is abandoned with the process."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._wanted.put(False)
        if self._file:
            self._file.unlink(missing_ok=True)

    def _run(self) -> None:
        while self._wanted.get():
            while not self._wanted.empty():  # several who asked meanwhile are served by the one that begins now
                if not self._wanted.get():
                    return
            self._reload()

    def _reload(self) -> None:
        self._state.reloads_begun += 1
        self._write()
        try:
            teachers = self._load(self._catalogue.all())
            self._catalogue.replace(teachers)
            message, is_done = "", True
        except (ValueError, OSError, OperatorError) as error:
            message, is_done = str(error), False
        except Exception as error:  # whatever a bundle does to its loader, the server goes on
            _log.exception("reload failed")
            message, is_done = f"{type(error).__name__}: {error}", False
        served = [(teacher.name, teacher.version) for teacher in self._catalogue.all()]
        self._state.last = Outcome(
            number=self._state.reloads_begun, is_done=is_done, message=message, teachers=served
        )
        if is_done:
            _log.info("reloaded: %s", describe(served))
        else:
            _log.error("reload refused, serving what was served before: %s", message)
        self._write()

    def _write(self) -> None:
        """Whole or not at all: others read it at any moment."""
        if self._file is None:
            return
        draft = self._file.with_name(f"{self._file.name}.new")
        try:
            draft.write_text(self._state.model_dump_json())
            draft.replace(self._file)
        except OSError:
            _log.exception("cannot tell `teacher reload` about this server in %s", self._file)


def forget_earlier_server(ledger_url: str) -> None:
    """Remove what a killed server said of itself; its process id may be somebody else's by now."""
    if file := state_file(ledger_url):
        file.unlink(missing_ok=True)


def state_file(ledger_url: str) -> Path | None:
    """Where the server of this ledger tells about itself; nowhere with PostgreSQL, which several may serve."""
    return beside_ledger(ledger_url, ".server.json")


def ask_for_reload(ledger_url: str, *, timeout_s: float) -> Outcome:
    """Make the server of this ledger reload and wait until it has.

    Raises OperatorError when no server runs here, and when it does not answer in time.
    """
    if state_file(ledger_url) is None:
        raise OperatorError(
            "a PostgreSQL ledger may have several servers; send each one the signal: kill -HUP PROCESS"
        )
    before = _read_state(ledger_url)
    if not is_held_by_server(ledger_url):
        raise OperatorError(f"no server runs on ledger {ledger_url}; `teacher serve` reads its bundles at start")
    if before is None:
        raise OperatorError(f"the server of ledger {ledger_url} is still starting; it reads its bundles right now")
    if before.host != socket.gethostname():
        raise OperatorError(
            f"the server of ledger {ledger_url} runs on {before.host!r}, this is {socket.gethostname()!r}: reload it "
            "there (in a container: docker compose exec)"
        )
    try:
        os.kill(before.pid, signal.SIGHUP)
    except OSError as error:
        raise OperatorError(
            f"the server, process {before.pid}, cannot be told to reload: {error.strerror}"
        ) from error
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        state = _read_state(ledger_url)
        if state is None or state.pid != before.pid:
            raise OperatorError(f"the server, process {before.pid}, ended before it had reloaded")
        if state.last and state.last.number > before.reloads_begun:
            return state.last
        time.sleep(POLL_S)
    raise OperatorError(f"the server, process {before.pid}, has not reloaded within {timeout_s:g} seconds")


def describe(served: list[tuple[str, str]]) -> str:
    """Names with their versions, for people; the default version of each name last."""
    versions: dict[str, list[str]] = {}
    for name, version in served:
        versions.setdefault(name, []).append(version)
    return ", ".join(
        f"{name} version {known[0]}"
        if len(known) == 1
        else f"{name} versions {', '.join(known)} (default {known[-1]})"
        for name, known in versions.items()
    )


def _read_state(ledger_url: str) -> ServerState | None:
    file = state_file(ledger_url)
    try:
        return ServerState.model_validate_json(file.read_bytes()) if file else None
    except (OSError, ValidationError):
        return None
