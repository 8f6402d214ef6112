import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill_client.errors import RunStoreError
from distill_client.run_folder import create_run, open_run
from tests.distill_client.fakes import FakeTeacher, begin, tiny_config

HOLD = """
import sys
from pathlib import Path
from distill_client.run_folder import open_run
with open_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_new_folder_says_all_that_a_resumption_needs(tmp_path: Path) -> None:
    teacher, config = FakeTeacher(), tiny_config()
    created = create_run(
        tmp_path / "deep" / "run", config, teacher.card(), teacher_url="http://teacher.test", key_identity="0" * 64
    )
    opened = open_run(tmp_path / "deep" / "run")
    assert opened.config == created.config == config
    assert opened.record == created.record
    record = json.loads((tmp_path / "deep" / "run" / "run.json").read_text())
    assert record["config_digest"] == config.digest()
    assert record["seed"] == 1
    assert record["teacher_url"] == "http://teacher.test"
    assert record["teacher"] == teacher.card().model_dump()
    assert {"python", "torch", "numpy", "httpx2", "pydantic", "blackbox-distillation"} <= set(record["versions"])
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["run"]


def test_every_run_has_an_id_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        begin(tmp_path / name, tiny_config(), FakeTeacher())
    assert open_run(tmp_path / "a").record.run_id != open_run(tmp_path / "b").record.run_id


def test_an_empty_folder_may_become_a_run_also_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    begin(tmp_path / "empty", tiny_config(), FakeTeacher())
    open_run(tmp_path / "empty")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    begin(Path("."), tiny_config(), FakeTeacher())
    open_run(tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "here"]


def test_nothing_that_exists_is_overwritten(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    before = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for name in ("run", "file", "full"):
        with pytest.raises(RunStoreError, match=r"exists already: `distill resume"):
            begin(tmp_path / name, tiny_config(), FakeTeacher())
    assert (tmp_path / "run" / "run.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "run"]


def test_a_folder_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for impossible in (tmp_path / "file" / "run", tmp_path / ("x" * 250)):
        with pytest.raises(RunStoreError, match="cannot be made"):
            begin(impossible, tiny_config(), FakeTeacher())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", None),
        ("run.json", "{}"),
        ("run.json", "{"),
        ("config.toml", None),
        ("config.toml", "name = "),
        ("config.toml", 'name = "x"'),
        ("config.toml", b"\xff\xfe"),
    ],
)
def test_a_folder_that_lacks_something_is_no_run(tmp_path: Path, file: str, content: str | bytes | None) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    path = tmp_path / "run" / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunStoreError, match="not a run folder, or a damaged one"):
        open_run(tmp_path / "run")


def test_an_experiment_changed_after_its_start_is_refused(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    path = tmp_path / "run" / "config.toml"
    path.write_text("# a comment changes nothing\n" + path.read_text())
    open_run(tmp_path / "run")
    path.write_text(path.read_text().replace("seed = 1", "seed = 2"))
    with pytest.raises(RunStoreError, match=r"config\.toml was changed since the run began"):
        open_run(tmp_path / "run")


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    arguments = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunStoreError, match="another process is working on this run"), open_run(tmp_path / "run"):
            pass
        other.kill()  # also without a chance to clean up
    with open_run(tmp_path / "run") as folder:
        assert folder.labels.stages() == []


def test_a_damaged_store_does_not_keep_the_folder_locked(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    (tmp_path / "run" / "answers.sqlite").write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(RunStoreError, match="cannot be opened"), open_run(tmp_path / "run"):
            pass


def test_a_summary_before_the_end_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    folder = open_run(tmp_path / "run")
    with pytest.raises(RunStoreError, match="no summary yet; `distill resume"):
        folder.read_summary()
    whole = {"student_accuracy": 0.5, "agreement_on": "x", "baselines": {}}
    folder.write_summary(whole)
    assert folder.read_summary() == whole
    for damaged in ("{", "[]", "", '{"student_accuracy": 1}'):
        (tmp_path / "run" / "summary.json").write_text(damaged)
        with pytest.raises(RunStoreError, match="no summary yet"):
            folder.read_summary()


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"buy_pool": "x"}', "\xff"])
def test_damaged_seconds_and_metrics_do_not_lock_out_a_paid_run(tmp_path: Path, damage: str) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    for name in ("seconds.json", "metrics.jsonl"):
        (tmp_path / "run" / name).write_text(damage, encoding="latin-1")
    with open_run(tmp_path / "run") as folder:
        assert folder.read_metrics() == []
        with folder.timed("evaluate"):
            pass
        assert list(folder.read_seconds()) == ["evaluate"]


@pytest.mark.parametrize("is_removed", [True, False])
def test_lost_answers_are_an_error_and_not_an_empty_store(tmp_path: Path, is_removed: bool) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    answers = tmp_path / "run" / "answers.sqlite"
    answers.unlink()
    if not is_removed:
        answers.touch()
    for _ in range(2):
        with pytest.raises(RunStoreError, match="missing or empty"), open_run(tmp_path / "run"):
            pass


def test_metrics_written_again_replace_their_own_rows_only(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    folder = open_run(tmp_path / "run")
    assert folder.read_metrics() == []
    folder.write_metrics("student", [{"step": 1, "loss": 2.0}])
    folder.write_metrics("standard_kd", [{"step": 1, "loss": 3.0}])
    for _ in range(2):
        folder.write_metrics("student", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}])
    assert folder.read_metrics() == [
        {"contender": "standard_kd", "step": 1, "loss": 3.0},
        {"contender": "student", "step": 1, "loss": 0.5},
        {"contender": "student", "step": 2, "loss": 0.25},
    ]


def test_seconds_add_up_over_resumptions_and_leave_out_what_was_cut_off(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    folder = open_run(tmp_path / "run")
    assert folder.read_seconds() == {}
    with folder.timed("evaluate"):
        pass
    (tmp_path / "run" / "seconds.json").write_text('{"evaluate": 5.0, "buy_pool": 7.0}')
    with folder.timed("evaluate"):
        pass
    with pytest.raises(KeyError), folder.timed("train_cvae"):
        raise KeyError
    seconds = open_run(tmp_path / "run").read_seconds()
    assert seconds.keys() == {"evaluate", "buy_pool"}
    assert seconds["evaluate"] >= 5.0
    assert seconds["buy_pool"] == 7.0
