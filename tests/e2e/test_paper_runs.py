"""`benchmarks/paper.py` on a small setting, with the real commands: killed, and brought to its end."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from benchmarks import paper
from benchmarks.reproduction import running
from benchmarks.reproduction.rows import read_rows
from examples.local_teacher import CommandFailed
from tests.e2e import processes
from tests.e2e.forked_commands import forked_key, forked_server
from tests.e2e.test_kill_and_resume import answers_kept, count, wait_until


@dataclass
class ForkedCommands:
    """What ``examples.local_teacher`` starts, forked instead; the client is killed once, so many answers on."""

    log: Path
    kills_after: int

    def run(self, *words: object, env: dict[str, str] | None = None, out: IO[str] | int | None = None) -> None:
        program = processes.start(*words, log=self.log, env=env)
        if words[:2] == ("distill", "run") and self.kills_after:
            run_dir = Path(str(words[words.index("--out") + 1]))
            wanted, self.kills_after = self.kills_after, 0
            if wait_until(lambda: answers_kept(run_dir) >= wanted, program):
                program.kill()
        if code := program.wait():
            raise CommandFailed([str(word) for word in words], code)


@pytest.fixture
def places(digits_bundle: Path, small_config: Path, tmp_path: Path) -> Iterator[dict[str, Path]]:
    (tmp_path / "configs" / "digits").mkdir(parents=True)
    content = small_config.read_text() + "[baselines]\nstandard_kd = false\n"
    (tmp_path / "configs" / "digits" / "tiny.toml").write_text(content)
    handler = signal.getsignal(signal.SIGTERM)
    yield {
        "configs": tmp_path / "configs",
        "bundles": digits_bundle.parent,
        "results": tmp_path / "results",
        "runs": tmp_path / "runs",
    }
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ForkedCommands:
    forked = ForkedCommands(tmp_path / "client.log", kills_after=9)
    for name, double in (
        ("run", forked.run),
        ("run_json", processes.run_json),
        ("serving", forked_server),
        ("issue_key", forked_key),
    ):
        monkeypatch.setattr(running, name, double)
    return forked


def test_a_run_killed_while_it_buys_goes_on_to_a_row_with_equal_counts(
    places: dict[str, Path], commands: ForkedCommands, capsys: pytest.CaptureFixture[str]
) -> None:
    def once() -> str:
        named = {"dataset": "digits", "method": "tiny", "seeds": "1", "disclosure": "top-k:3"}
        paper.main(**named, **places, dirty=True)  # type: ignore[arg-type]
        return capsys.readouterr().out

    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        once()
    assert "ended with -9" in capsys.readouterr().out
    assert read_rows("digits", places["results"]) == []

    assert "140 charged" in once()
    (row,) = read_rows("digits", places["results"])
    counts = {"planned": 140, "bought": 140, "charged_by_server": 140, "in_audit_log": 140}
    assert row.counts.model_dump() == {**counts, "answers": 35, "receipts": 35}
    (ledger,) = places["runs"].glob("digits/*/ledger.sqlite")
    assert count(ledger, "SELECT sum(spent) FROM keys") == count(ledger, "SELECT sum(granted) FROM keys") == 140
    summary = json.loads((ledger.parent / "run" / "summary.json").read_text())
    assert summary["agreement_on"] == "the owner's answers on the test set"
    assert row.result.model_dump() == {"accuracy": summary["student_accuracy"], "agreement": summary["agreement"]}
    assert row.baselines.keys() == {"student_alone"}
    assert (row.disclosure, row.resumed, row.config["seed"]) == ("top-k:3", True, 1)
    assert row.last_receipt.event_hash == summary["last_receipt"]["event"]["hash"]
