"""Asking for a reload: who is told what, and that no signal goes to a process that is not the server.

The server's side, under load, is in tests/e2e/test_reload.py.
"""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from teacher_server.errors import OperatorError
from teacher_server.ledger.databases.server_lock import hold_for_server
from teacher_server.reloading import Outcome, ServerState, ask_for_reload, describe, forget_earlier_server, state_file


def write_state(ledger_url: str, **changes: Any) -> None:
    state = ServerState(pid=os.getpid(), host=socket.gethostname())
    file = state_file(ledger_url)
    assert file is not None
    file.write_text(state.model_copy(update=changes).model_dump_json())


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What would be sent, and is not."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, sign: sent.append((pid, sign)))
    return sent


def test_without_a_server_nothing_is_signalled(ledger_url: str, signals: list[tuple[int, int]]) -> None:
    for _ in range(2):
        with pytest.raises(OperatorError, match="no server runs on ledger"):
            ask_for_reload(ledger_url, timeout_s=1)
        write_state(ledger_url)  # what a killed server leaves
    assert signals == []


def test_asking_about_a_mistyped_ledger_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no server runs on ledger"):
        ask_for_reload(f"sqlite:///{tmp_path / 'typo.sqlite'}", timeout_s=1)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_starting_is_not_signalled_whatever_an_earlier_one_left(
    ledger_url: str, signals: list[tuple[int, int]]
) -> None:
    write_state(ledger_url)
    with hold_for_server(ledger_url):
        forget_earlier_server(ledger_url)
        with pytest.raises(OperatorError, match="is still starting"):
            ask_for_reload(ledger_url, timeout_s=1)
    assert signals == []


def test_a_server_in_another_container_is_named_and_not_signalled(
    ledger_url: str, signals: list[tuple[int, int]]
) -> None:
    write_state(ledger_url, host="another-container")
    with hold_for_server(ledger_url), pytest.raises(OperatorError, match="runs on 'another-container'"):
        ask_for_reload(ledger_url, timeout_s=1)
    assert signals == []


def test_a_server_that_does_not_answer_in_time_is_said(ledger_url: str, signals: list[tuple[int, int]]) -> None:
    earlier = Outcome(number=4, is_done=True, message="", teachers=[])
    write_state(ledger_url, reloads_begun=4, last=earlier)
    with hold_for_server(ledger_url), pytest.raises(OperatorError, match=r"has not reloaded within 0\.2 seconds"):
        ask_for_reload(ledger_url, timeout_s=0.2)
    assert signals == [(os.getpid(), signal.SIGHUP)]


def test_a_process_that_is_gone_or_somebody_elses_is_said(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "kill", refuse)
    write_state(ledger_url, pid=7)
    with (
        hold_for_server(ledger_url),
        pytest.raises(OperatorError, match=r"process 7, cannot be told .* No such process"),
    ):
        ask_for_reload(ledger_url, timeout_s=1)


def test_only_a_reload_that_began_later_counts(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = Outcome(number=6, is_done=True, message="", teachers=[("a", "1")])
    write_state(ledger_url, reloads_begun=5, last=done.model_copy(update={"number": 5}))
    monkeypatch.setattr(os, "kill", lambda *_: write_state(ledger_url, reloads_begun=6, last=done))
    with hold_for_server(ledger_url):
        assert ask_for_reload(ledger_url, timeout_s=5) == done


def test_what_is_served_is_told_with_its_default() -> None:
    assert describe([("a", "1"), ("b", "x"), ("b", "y")]) == "a version 1, b versions x, y (default y)"
