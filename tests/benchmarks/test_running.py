"""How a run is brought to a row: what is asked of which command, and what is never recorded, with doubles of them.

``tests/e2e/test_paper_runs.py`` does it with the real ones.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from benchmarks import paper
from benchmarks.reproduction import running
from benchmarks.reproduction.provenance import Tree
from benchmarks.reproduction.rows import read_rows
from examples.local_teacher import CommandFailed
from tests.benchmarks.made_up import folders, found

COUNTS = {"bought": 50_000, "charged_by_server": 50_000, "in_audit_log": 50_000, "answers": 196, "receipts": 196}
RECEIPT = {"event": {"sequence": 197, "hash": "ab"}, "signing_key": "cd", "signature": "ef"}
SUMMARY: dict[str, Any] = {
    "images": {"planned": 50_000, "by_phase": {"pool": 2_000, "views": 48_000}},
    "last_receipt": RECEIPT,
    "student_accuracy": 0.87,
    "agreement": 0.9,
    "student_alone_agreement": 0.82,
    "standard_kd_agreement": None,
    "baselines": {"student_alone": 0.81, "standard_kd": None},
    "teacher": {"name": "fashion-mnist-lenet5", "version": "1"},
    "teacher_accuracy": 0.9063,
    "test_images": 10_000,
    "config_digest": "d",
    "seconds": {"train_student": 100.0},
    "versions": {"python": "3", "torch": "2", "numpy": "2", "httpx2": "2"},
}


@dataclass
class Doubles:
    """Commands that do at once what they are told to; ``asked`` has their words, ``keys`` the terms of each key.

    ``tree`` are the project's files, which are ``tree_after`` when a client ran.
    """

    planned: int = 50_000
    audit: dict[str, Any] = field(default_factory=lambda: {**COUNTS, "equal": True, "faults": []})
    repeated: int = 0
    client_dies: bool = False
    tree: Tree = field(default_factory=lambda: Tree("c0ffee0", dirty=False))
    tree_after: Tree | None = None
    asked: list[str] = field(default_factory=list)
    keys: list[tuple[int, str]] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)

    def run(self, *words: object, env: dict[str, str], out: IO[str]) -> None:
        said = [str(word) for word in words]
        self.asked.append(" ".join(said[:2]))
        if said[1] in ("run", "resume"):
            self.secrets.add(env["DISTILL_API_KEY"])
            assert env["OMP_NUM_THREADS"] == "1"
            run_dir = Path(said[said.index("--out") + 1] if said[1] == "run" else said[2])
            run_dir.mkdir(exist_ok=True)
            self.tree = self.tree_after or self.tree
            if self.client_dies:
                raise CommandFailed(said, -9)
            images = {**SUMMARY["images"], "planned": self.planned, "repeated": self.repeated}
            (run_dir / "summary.json").write_text(json.dumps({**SUMMARY, "images": images}))

    def run_json(self, *words: object, env: dict[str, str] | None = None) -> dict[str, Any]:
        self.asked.append(" ".join(map(str, words[:2])))
        return {"total": self.planned} if words[1] == "plan" else self.audit

    def issue_key(self, ledger_url: str, *, name: str, budget: int, disclosure: str) -> str:
        self.keys.append((budget, disclosure))
        return f"secret-{len(self.keys)}"


@contextmanager
def serving(bundle: Path, ledger_url: str, log: Path) -> Iterator[str]:
    yield "http://127.0.0.1:1"


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, Path]]:
    handler = signal.getsignal(signal.SIGTERM)
    yield {**folders(tmp_path), "results": tmp_path / "results", "runs": tmp_path / "runs"}
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Doubles:
    double = Doubles()
    for name in ("run", "run_json", "issue_key"):
        monkeypatch.setattr(running, name, getattr(double, name))
    monkeypatch.setattr(running, "serving", serving)
    for module in (paper, running):
        monkeypatch.setattr(module, "present_tree", lambda *_: double.tree)
    return double


def once(places: dict[str, Path], **options: Any) -> None:
    paper.main(**{"dataset": "fashion-mnist", "method": "ours", "seeds": "1", **places, **options})


def test_a_run_is_recorded_once(places: dict[str, Path], doubles: Doubles) -> None:
    once(places, disclosure="top-k:3")
    (row,) = read_rows("fashion-mnist", places["results"])
    assert doubles.asked == ["distill plan", "distill run", "teacher predict", "distill evaluate", "distill audit"]
    assert doubles.keys == [(50_000, "top-k:3")]
    assert row.counts.model_dump() == {"planned": 50_000, **COUNTS}
    assert row.last_receipt.model_dump() == {
        "sequence": 197,
        "event_hash": "ab",
        "signing_key": "cd",
        "signature": "ef",
    }
    assert {name: each.model_dump() for name, each in row.baselines.items()} == {
        "student_alone": {"accuracy": 0.81, "agreement": 0.82}
    }
    assert (row.disclosure, row.resumed, row.seed, row.student) == ("top-k:3", False, 1, "lenet5-half")

    once(places, disclosure="top-k:3")
    assert len(doubles.asked) == 5
    assert len(read_rows("fashion-mnist", places["results"])) == 1


def test_a_killed_run_goes_on_under_its_key(places: dict[str, Path], doubles: Doubles) -> None:
    doubles.client_dies = True
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        once(places)
    assert read_rows("fashion-mnist", places["results"]) == []
    doubles.client_dies = False
    once(places)
    assert "distill resume" in doubles.asked
    assert doubles.keys == [(50_000, "probabilities")]
    assert doubles.secrets == {"secret-1"}
    (row,) = read_rows("fashion-mnist", places["results"])
    assert row.resumed
    (key,) = places["runs"].glob("fashion-mnist/*/key")
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "differs",
    [{"bought": 49_999}, {"charged_by_server": 50_256}, {"in_audit_log": 0}, {"equal": False}, {"receipts": 195}],
)
def test_counts_that_do_not_agree_are_not_recorded(
    places: dict[str, Path], doubles: Doubles, capsys: pytest.CaptureFixture[str], differs: dict[str, Any]
) -> None:
    doubles.audit |= differs
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        once(places)
    assert "the counts do not agree, so nothing is recorded" in capsys.readouterr().out
    assert read_rows("fashion-mnist", places["results"]) == []


def test_a_plan_that_is_not_the_budget_buys_nothing(places: dict[str, Path], doubles: Doubles) -> None:
    doubles.planned = 49_000
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        once(places)
    assert doubles.keys == []


def test_images_that_came_out_equal_are_bought_once(places: dict[str, Path], doubles: Doubles) -> None:
    doubles.repeated = 139
    doubles.audit |= dict.fromkeys(("bought", "charged_by_server", "in_audit_log"), 49_861)
    once(places)
    (row,) = read_rows("fashion-mnist", places["results"])
    assert (row.counts.planned, row.counts.bought, row.answers) == (50_000, 49_861, 50_000)


def test_a_second_pool_that_shares_images_with_the_first_needs_a_smaller_key(
    places: dict[str, Path], doubles: Doubles
) -> None:
    doubles.planned = 51_919
    doubles.audit |= dict.fromkeys(("bought", "charged_by_server", "in_audit_log"), 51_919)
    once(places, method="two-pools")
    assert doubles.keys == [(51_919, "probabilities")]
    doubles.planned = 52_001
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        once(places, method="two-pools", seeds="2")


def test_one_that_fails_does_not_keep_the_others_from_running(places: dict[str, Path], doubles: Doubles) -> None:
    once(places, seeds="2")
    doubles.client_dies = True
    with pytest.raises(SystemExit, match="2 of 3 runs failed"):
        once(places, seeds="1,2,3")
    assert doubles.asked.count("distill run") == 3


def test_a_run_that_another_process_is_at_is_left_to_it(
    places: dict[str, Path], doubles: Doubles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running.claimed(found(tmp_path), places["runs"]):
        once(places)
    assert "another process is at it" in capsys.readouterr().out
    assert doubles.asked == []


def test_a_recorded_runs_folder_may_be_discarded(places: dict[str, Path], doubles: Doubles) -> None:
    once(places, discards=True)
    assert len(read_rows("fashion-mnist", places["results"])) == 1
    assert [path for path in places["runs"].glob("fashion-mnist/*") if path.is_dir()] == []


def test_a_folder_left_by_a_kill_after_its_row_is_discarded_too(places: dict[str, Path], doubles: Doubles) -> None:
    once(places)
    (folder,) = (path for path in places["runs"].glob("fashion-mnist/*") if path.is_dir())
    once(places)
    assert folder.exists(), "nobody asked for less"
    once(places, discards=True)
    assert not folder.exists()
    assert doubles.asked.count("distill run") == len(read_rows("fashion-mnist", places["results"])) == 1


def test_what_is_not_committed_is_not_run_unless_asked_for(places: dict[str, Path], doubles: Doubles) -> None:
    doubles.tree = Tree("c0ffee0", dirty=True)
    with pytest.raises(
        SystemExit, match="not as commit c0ffee0 has it, so a row could not say what it is of; commit"
    ):
        once(places)
    assert doubles.asked == []
    once(places, dirty=True)
    (row,) = read_rows("fashion-mnist", places["results"])
    assert (row.versions.commit, row.versions.dirty) == ("c0ffee0", True)


@pytest.mark.parametrize(
    ("after", "dirty"), [(Tree("c0ffee0", True), True), (Tree("facade1", False), True), (None, False)]
)
def test_files_that_change_while_it_runs_are_in_its_row(
    places: dict[str, Path], doubles: Doubles, after: Tree | None, dirty: bool
) -> None:
    doubles.tree_after = after
    once(places)
    (row,) = read_rows("fashion-mnist", places["results"])
    assert (row.versions.commit, row.versions.dirty) == ("c0ffee0", dirty)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "1;2"}, "--seeds is '1;2'; allowed are whole numbers and commas"),
        ({"method": None}, "give --dataset and --method, or --plan, or --list"),
    ],
)
def test_options_that_make_no_case_are_refused(
    places: dict[str, Path], doubles: Doubles, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        once(places, **options)
    assert message in str(end.value)
    assert doubles.asked == []
