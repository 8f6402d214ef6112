"""The table of trials: grouped by what was to be taught, the best first."""

from pathlib import Path

import pytest

from benchmarks import development
from benchmarks.development import with_changes
from benchmarks.reproduction.cases import CaseError
from benchmarks.reproduction.rows import Versions
from benchmarks.reproduction.trials import read_trials, trial_table
from tests.benchmarks.made_up import folders, found

LINE = (
    '{"dataset": "mnist", "method": "ours", "student": "lenet5", "answers": %d, "about": "%s", "set": [], '
    '"agreement": %s, "divergence": 0.25, "seconds": 1.0, "device": "cpu", "finished_at": "2026-01-01"}\n'
)


def test_trials_are_grouped_and_the_best_is_first(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(LINE % (500, "few", 0.9) + LINE % (900, "worse", 0.91) + LINE % (900, "better", 0.92))
    assert trial_table(read_trials(path)).splitlines()[2:] == [
        "| mnist, lenet5 | 900 | better | 92.00% | 0.250 |",
        "| mnist, lenet5 | 900 | worse | 91.00% | 0.250 |",
        "| mnist, lenet5 | 500 | few | 90.00% | 0.250 |",
    ]


def test_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text(LINE % (500, "few", 0.9) + '{"dataset": "mnist"}\n')
    with pytest.raises(ValueError, match="agreement"):
        read_trials(path)


def test_a_trial_changes_what_it_names(tmp_path: Path) -> None:
    folders(tmp_path)
    config = found(tmp_path).config
    changed = with_changes(config, ["training.learning_rate=2e-3", "student.augmentation=geometric"])
    assert (changed.training.learning_rate, changed.student.augmentation) == (2e-3, "geometric")
    assert changed.synthesis == config.synthesis


def test_a_trials_line_says_what_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path)
    path = tmp_path / "trials.jsonl"
    path.write_text(LINE % (500, "from before", 0.9))
    monkeypatch.setattr(development, "resolve", lambda case: found(tmp_path, seed=case.seed, answers=case.answers))
    ran = Versions(python="3", torch="2", numpy="2", commit="c0ffee0", dirty=True)
    monkeypatch.setattr(development, "present_versions", lambda: ran)
    measured = {"agreement": 0.9, "divergence": 0.25, "seconds": 1.0}
    monkeypatch.setattr(development, "tried", lambda *_: measured)
    changed = ["training.learning_rate=2e-3"]
    development.main("fashion-mnist", "slower", answers=20_000, changed=changed, trials=path)
    before, trial = read_trials(path)
    assert (before.config_digest, before.versions) == (None, None)
    again = with_changes(found(tmp_path, seed=development.SEED, answers=20_000).config, changed)
    assert (trial.config_digest, trial.set, trial.about) == (again.digest(), changed, "slower")
    assert trial.versions == ran
    assert trial.config_digest != found(tmp_path, seed=development.SEED, answers=20_000).config.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.pace=3", "training.pace"),
        ("training.batch_size=0", "training.batch_size"),
        ("training", "allowed is SECTION.KEY=VALUE"),
        ("name.of=1", "allowed is SECTION.KEY=VALUE"),
    ],
)
def test_a_change_that_is_none_is_refused(tmp_path: Path, change: str, message: str) -> None:
    folders(tmp_path)
    with pytest.raises(CaseError, match=message):
        with_changes(found(tmp_path).config, [change])
