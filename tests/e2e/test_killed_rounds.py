"""A run that buys until it is flat, as a real process: killed with SIGKILL at its rounds, it goes on as decided."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.e2e.processes import ServerProcess, run_json, start
from tests.e2e.test_kill_and_resume import PATIENCE_S, PLANNED, answers_kept, count, wait_until

ROUNDS = """
[budget]
policy = "until-flat"
rounds = 4
least_gain = 100
patience = 2
interim_length = 0.2

[baselines]
student_alone = false
standard_kd = false
"""
BOUGHT = 40 + 25 + 25


def test_a_run_killed_at_its_rounds_keeps_its_decision_and_pays_once(
    server: ServerProcess, small_config: Path, tmp_path: Path
) -> None:
    content = small_config.read_text().replace("images = 100", 'images = 100\nmethod = "mixed-views"')
    small_config.write_text(content + ROUNDS)
    run_dir, log = tmp_path / "run", tmp_path / "client.log"
    measured, kept, kills = run_dir / "rounds" / "measured.json", "", 0
    moments: list[Callable[[], bool]] = [
        lambda: answers_kept(run_dir) >= 12,  # in the middle of the first round
        measured.exists,  # it is judged, and the second is not bought
        lambda: count(run_dir / "answers.sqlite", "SELECT count(*) FROM stages") >= 3,
    ]
    env = server.create_key("rounds", PLANNED)
    words: tuple[object, ...] = ("distill", "run", small_config, "--teacher", server.url, "--out", run_dir)
    for moment in moments:
        client = start(*words, log=log, env=env)
        if wait_until(moment, client):
            kills += client.kill()
        kept = kept or (measured.read_text() if measured.exists() else "")
        words = ("distill", "resume", run_dir)
    assert start(*words, log=log, env=env).wait(PATIENCE_S) == 0, log.read_text()
    assert kills >= 2
    assert "Traceback" not in log.read_text()

    assert json.loads(measured.read_text())[0] == json.loads(kept)[0]
    audit = run_json("distill", "audit", run_dir, "--json", env=env)
    assert (audit["bought"], audit["charged_by_server"], audit["in_audit_log"]) == (BOUGHT,) * 3
    assert audit["equal"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["rounds"]["stopped_after"] == 2
    assert summary["images"]["not_bought"] == {"views-3": 25, "views-4": 25}
