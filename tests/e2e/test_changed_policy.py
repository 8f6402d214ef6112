"""The owner changes a key's disclosure in the middle of a run: nothing is mixed, nothing is paid for in vain."""

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.processes import ServerProcess, run
from tests.e2e.test_kill_and_resume import (
    PATIENCE_S,
    PLANNED,
    answers_kept,
    check_equal_counts,
    start_client,
    wait_until,
)
from tests.reliability.processes import Done


def set_policy(server: ServerProcess, name: str, *options: str) -> str:
    words = ("teacher", "keys", "set", "--ledger", server.ledger_url, "--name", name, *options)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def policies_kept(run_dir: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{run_dir / 'answers.sqlite'}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT DISTINCT disclosure FROM answers")]


def resumed(run_dir: Path, env: dict[str, str]) -> Done:
    return run("distill", "resume", run_dir, env=env, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("is_running", [False, True], ids=["between a kill and its resume", "while it buys"])
def test_a_run_stops_at_another_policy_and_goes_on_under_its_own(
    server: ServerProcess, small_config: Path, tmp_path: Path, is_running: bool
) -> None:
    name = f"owner-changes-{is_running}".lower()
    env = server.create_key(name, PLANNED)  # not one image to spare
    run_dir, log = tmp_path / "run", tmp_path / "log"
    client = start_client(("distill", "run", small_config, "--teacher", server.url, "--out", run_dir), env, log)
    assert wait_until(lambda: answers_kept(run_dir) >= 3, client)
    client.send(signal.SIGSTOP if is_running else signal.SIGKILL)
    assert "disclosure probabilities;noise=0.2;decimals=3," in set_policy(
        server, name, "--noise", "0.2", "--decimals", "3"
    )
    spent = images_spent_of(server, name)
    assert 0 < spent < PLANNED
    if is_running:
        client.send(signal.SIGCONT)
        assert client.wait(PATIENCE_S) == 8, log.read_text()
        said = " ".join(log.read_text().split())
        assert "the run is bought under disclosure 'probabilities' and no other" in said
        assert "but this key's is 'probabilities;noise=0.2;decimals=3' now" in said
    else:
        client.wait(PATIENCE_S)
    again = resumed(run_dir, env)
    said = " ".join(again.stderr.split())
    assert again.returncode == 6, said
    assert "the run began with version 1 and disclosure probabilities; teacher" in said
    assert "has version 1 and disclosure probabilities;noise=0.2;decimals=3 for this key" in said
    assert "ask the teacher's owner for what it was" in said
    assert "`distill resume`; or begin a new run" in said
    assert "Traceback" not in log.read_text() + again.stderr
    assert images_spent_of(server, name) == spent, "nothing was charged under the other policy"
    assert policies_kept(run_dir) == ["probabilities"]

    set_policy(server, name, "--noise", "none", "--decimals", "none")
    finished = resumed(run_dir, env)
    assert finished.returncode == 0, finished.stderr
    assert policies_kept(run_dir) == ["probabilities"]
    check_equal_counts(run_dir, server, env)


def images_spent_of(server: ServerProcess, name: str) -> int:
    with closing(sqlite3.connect(f"file:{server.ledger}?mode=ro", uri=True, timeout=30)) as connection:
        return int(connection.execute("SELECT spent FROM keys WHERE name = ?", (name,)).fetchone()[0])
