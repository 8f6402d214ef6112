"""The other side of ``tests.reliability.processes``: imports what a program needs once, then forks it at once.

``python -m tests.reliability.fork_server``: one JSON object a line on standard input, an answer each. A program is
named MODULE:FUNCTION, and its module imported here when it is first asked for.
A forked program is a process like any other, with memory, files and locks of its own; only its imports were ready.
When standard input ends, which the operating system sees to if its owner is killed, its programs are killed too.
"""

import importlib
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn


def main() -> None:
    running: set[int] = set()
    for line in sys.stdin.buffer:
        command = json.loads(line)
        if "arguments" in command:
            module, _, function = command["target"].partition(":")
            pid = _fork(getattr(importlib.import_module(module), function), command)
            running.add(pid)
            _say({"pid": pid})
        else:
            _say({"code": _poll(command["poll"], running)})
    for pid in running:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _fork(program: Callable[[], object], command: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(program, command)
    return pid


def _become(program: Callable[[], object], command: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "out"), (2, "log")):
            os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
        os.environ.clear()
        os.environ.update(command["env"])
        sys.argv = command["arguments"]
        random.seed()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


def _poll(pid: int, running: set[int]) -> int | None:
    """The exit code, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found == 0:
        return None
    running.discard(pid)
    return os.waitstatus_to_exitcode(status)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
