"""A TCP door to a PostgreSQL of the tests that breaks connections while a commit is under way."""

import itertools
import re
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_BEGIN, _READ_ONLY = b"BEGIN", b"READ ONLY"
_COMMIT = re.compile(rb"COMMIT(?!TED)")
_CHUNK = 1 << 16


class CommitCutter:
    """Listens on a port of this machine and, once armed, cuts every ``every``-th commit of something written.

    Whose commit it is it cannot see. A server commits once at its start, after it has begun to listen, to find out
    whether it can: arm once it has answered something, and only charges are cut. Every other one is cut before it
    reached the database, the rest after it: the database commits, and nobody hears of it. ``cut_before`` and
    ``cut_after`` count.
    """

    def __init__(self, target: Path, *, every: int) -> None:
        self._target, self._every = target, every
        self._commits = itertools.count(1)
        self._is_armed = threading.Event()
        self.cut_before = self.cut_after = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self) -> None:
        """Count and cut from the next commit on."""
        self._is_armed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as database, suppress(OSError):
            database.connect(str(self._target))
            is_reading = False
            while True:
                for readable in select.select([client, database], [], [])[0]:
                    content = readable.recv(_CHUNK)
                    if not content:
                        return
                    if readable is client and _BEGIN in content:
                        is_reading = _READ_ONLY in content
                    if (
                        readable is client
                        and _COMMIT.search(content)
                        and not is_reading
                        and self._cuts(database, content)
                    ):
                        return
                    (database if readable is client else client).sendall(content)

    def _cuts(self, database: socket.socket, content: bytes) -> bool:
        if not self._is_armed.is_set():
            return False
        number = next(self._commits)
        if number % self._every:
            return False
        if number // self._every % 2:
            self.cut_before += 1
            return True
        database.sendall(content)
        database.recv(_CHUNK)  # it has committed
        self.cut_after += 1
        return True
