"""Nothing lost, nothing double: real processes, killed with SIGKILL in the middle of a run, then resumed."""

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.processes import ServerProcess, run, run_json, start
from tests.reliability.processes import Program

PLANNED = 140
PATIENCE_S = 90


def count(database: Path, query: str) -> int:
    """One number from an SQLite file that another process is writing; 0 while the file or table is not there."""
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            return int(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def answers_kept(run_dir: Path) -> int:
    return count(run_dir / "answers.sqlite", "SELECT count(*) FROM answers")


def images_spent(server: ServerProcess) -> int:
    return count(server.ledger, "SELECT max(spent) FROM keys")


def start_client(words: tuple[object, ...], env: dict[str, str], log: Path) -> Program:
    return start(*words, log=log, env=env)


def wait_until(reached: Callable[[], bool], client: Program) -> bool:
    """Poll until something is reached; False when the client ended first."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        if client.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the client neither came so far nor ended"
        time.sleep(0.002)
    return True


def check_equal_counts(run_dir: Path, server: ServerProcess, env: dict[str, str]) -> None:
    """Client, counter and log agree, on exactly the planned number, and every stored row is in the log once."""
    audit = run_json("distill", "audit", run_dir, "--json", env=env)
    assert audit["faults"] == []
    assert (audit["bought"], audit["charged_by_server"], audit["in_audit_log"]) == (PLANNED,) * 3
    assert images_spent(server) == PLANNED
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["images"]["planned"] == PLANNED
    assert summary["audit"]["equal"] is True


def run_with_client_kills(
    server: ServerProcess, config: Path, run_dir: Path, env: dict[str, str], kill_after_answers: list[int]
) -> int:
    """Run to the end, killing the client each time it has kept one of these many answers; return the kills."""
    log = run_dir.with_suffix(".log")
    words: tuple[object, ...] = ("distill", "run", config, "--teacher", server.url, "--out", run_dir)
    kills = 0
    for wanted in kill_after_answers:
        client = start_client(words, env, log)
        if wait_until(lambda wanted=wanted: answers_kept(run_dir) >= wanted, client):  # type: ignore[misc]  # bound now
            kills += client.kill()
        if run_dir.exists():
            words = ("distill", "resume", run_dir)
    assert start_client(words, env, log).wait(PATIENCE_S) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    return kills


def test_client_killed_while_buying_pays_for_nothing_twice(
    server: ServerProcess, small_config: Path, tmp_path: Path
) -> None:
    env = server.create_key("killed-client", PLANNED)  # not one image to spare
    run_dir = tmp_path / "run"
    kills = run_with_client_kills(server, small_config, run_dir, env, [1, 9, 20])
    assert kills >= 2
    check_equal_counts(run_dir, server, env)


def test_server_killed_while_selling_loses_and_doubles_nothing(
    server: ServerProcess, small_config: Path, tmp_path: Path
) -> None:
    env = server.create_key("killed-server", PLANNED)
    run_dir, log = tmp_path / "run", tmp_path / "client.log"
    client = start_client(("distill", "run", small_config, "--teacher", server.url, "--out", run_dir), env, log)
    kills = 0
    for wanted in (8, 60):
        if wait_until(lambda wanted=wanted: images_spent(server) >= wanted, client):  # type: ignore[misc]  # bound now
            server.kill()
            kills += 1
            server.start()  # same port, same ledger: the client's retries find it again
    assert client.wait(PATIENCE_S) == 0, log.read_text()
    assert kills == 2
    assert "Traceback" not in log.read_text()
    check_equal_counts(run_dir, server, env)


def test_client_killed_while_training_ends_with_the_same_student(
    server: ServerProcess, small_config: Path, tmp_path: Path
) -> None:
    """What a kill interrupts is done again from the same bytes and seeds: the student does not depend on it."""
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    environments = {name: server.create_key(name, PLANNED) for name in runs}
    log = tmp_path / "client.log"
    words = ("distill", "run", small_config, "--teacher", server.url, "--out", runs["whole"])
    assert start_client(words, environments["whole"], log).wait(PATIENCE_S) == 0, log.read_text()

    words = ("distill", "run", small_config, "--teacher", server.url, "--out", runs["killed"])
    client = start_client(words, environments["killed"], log)
    assert wait_until((runs["killed"] / "contenders" / "student.safetensors").exists, client)
    client.kill()
    again = start_client(("distill", "resume", runs["killed"]), environments["killed"], log)
    assert again.wait(PATIENCE_S) == 0, log.read_text()

    weights = {name: (run / "student" / "student.safetensors").read_bytes() for name, run in runs.items()}
    assert weights["whole"] == weights["killed"]
    summaries = {name: json.loads((run / "summary.json").read_text()) for name, run in runs.items()}
    assert summaries["whole"]["student_accuracy"] == summaries["killed"]["student_accuracy"]


def test_two_clients_on_one_run_folder_do_not_meet(server: ServerProcess, small_config: Path, tmp_path: Path) -> None:
    env = server.create_key("twice", PLANNED)
    run_dir, log = tmp_path / "run", tmp_path / "client.log"
    client = start_client(("distill", "run", small_config, "--teacher", server.url, "--out", run_dir), env, log)
    assert wait_until(lambda: answers_kept(run_dir) >= 1, client)
    second = run("distill", "resume", run_dir, env=env)
    assert client.wait(PATIENCE_S) == 0, log.read_text()
    # It came while the first was at work, or just after it: kept out, or nothing left to do.
    assert (second.returncode, "another process" in second.stderr) in ((6, True), (0, False)), second.stderr
    check_equal_counts(run_dir, server, env)


def test_ctrl_c_leaves_at_once_though_the_server_is_dead(
    server: ServerProcess, small_config: Path, tmp_path: Path
) -> None:
    env = server.create_key("impatient", PLANNED)
    run_dir, log = tmp_path / "run", tmp_path / "client.log"
    client = start_client(("distill", "run", small_config, "--teacher", server.url, "--out", run_dir), env, log)
    assert wait_until(lambda: answers_kept(run_dir) >= 5, client)
    server.kill()
    assert wait_until(lambda: "asking again" in log.read_text(), client)
    client.send(signal.SIGINT)
    assert client.wait(20) == 130, "its requests would have been retried for a minute"
    assert "distill resume" in log.read_text()

    server.start()
    assert start_client(("distill", "resume", run_dir), env, log).wait(PATIENCE_S) == 0, log.read_text()
    check_equal_counts(run_dir, server, env)


@pytest.mark.soak
@pytest.mark.parametrize("round_", range(10))
def test_soak_client_and_server_killed_at_many_moments(
    server: ServerProcess, small_config: Path, tmp_path: Path, round_: int
) -> None:
    """Both sides, one after the other, at moments that differ from round to round."""
    env = server.create_key(f"soak-{round_}", PLANNED)
    run_dir, log = tmp_path / "run", tmp_path / "client.log"
    words: tuple[object, ...] = ("distill", "run", small_config, "--teacher", server.url, "--out", run_dir)
    for kill in range(8):
        client = start_client(words, env, log)
        wanted = 4 * ((kill * 4 + round_) % 35) + 4
        if wait_until(lambda wanted=wanted: images_spent(server) >= wanted, client):  # type: ignore[misc]  # bound now
            server.kill() if kill % 2 else client.kill()
        if kill % 2:
            if server.process is None:
                server.start()
            assert client.wait(PATIENCE_S) == 0, log.read_text()
        client.wait(PATIENCE_S)
        if run_dir.exists():
            words = ("distill", "resume", run_dir)
    assert start_client(words, env, log).wait(PATIENCE_S) == 0, log.read_text()
    check_equal_counts(run_dir, server, env)
