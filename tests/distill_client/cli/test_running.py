"""`distill plan`, `run` and `resume`, against the real application behind a real socket."""

import json
import re
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill_client import expectation
from distill_client.cli import KEY_VARIABLE, planning
from distill_client.errors import (
    BudgetExhausted,
    ConfigError,
    RunStoreError,
    TeacherRefused,
    TeacherUnavailable,
)
from teacher_server.ledger.keys.issuing import grant_images, list_keys
from tests.distill_client.cli.support import (
    Finished,
    HashClassifier,
    Served,
    distill,
    exit_of_main,
    hash_teacher,
    kinds_of_events,
    one_object,
    write_config,
)
from tests.distill_client.fakes import tiny_config


def test_run_prints_the_summary_it_leaves(finished: Finished) -> None:
    images = finished.summary["images"]
    assert images["planned"] == images["bought"] == images["charged_by_server"] == images["in_audit_log"] == 100
    assert json.loads((finished.path / "summary.json").read_text()) == finished.summary
    with Image.open(finished.path / "report.png") as picture:
        assert picture.format == "PNG"
    assert finished.secret not in "".join(
        path.read_text(errors="replace") for path in finished.path.rglob("*") if path.is_file()
    )


def test_run_and_resume_for_people(served: Served, tmp_path: Path) -> None:
    config, secret = write_config(tmp_path / "tiny.toml", synthesis={"images": 0}), served.key("people", budget=40)
    result = distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", key=secret)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "charged by the server" in result.stdout
    assert f"run folder: {tmp_path / 'run'} (" in result.stdout  # on one line, however long
    assert "buying pool: 40 images" in result.stderr
    assert "buying pool: done, 0 images left in budget" in result.stderr
    again = distill("resume", tmp_path / "run", key=secret)
    assert again.exit_code == 0, (again.output, again.exception)
    assert "buying pool: 40 of 40 images bought already" in again.stderr
    assert "all rows agree" in again.stdout


def test_a_pool_that_does_not_fit_stops_a_run_that_is_told_so_and_resume_goes_on(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, secret = write_config(tmp_path / "tiny.toml", synthesis={"images": 0}), served.key("unfit", budget=40)
    monkeypatch.setenv(KEY_VARIABLE, secret)
    words = ("run", config, "--teacher", served.url, "--out", tmp_path / "run", "--strict-pool")
    assert exit_of_main(monkeypatch, *words) == 10
    told = capsys.readouterr().err
    assert f"the run can go on later: distill resume {tmp_path / 'run'}" in told
    assert told.splitlines()[-1].startswith("distill: the pool does not seem to fit the teacher: the teacher is less")
    again = distill("resume", tmp_path / "run", key=secret)
    assert again.exit_code == 0, (again.output, again.exception)
    assert "warning: the pool does not seem to fit the teacher" in again.stderr
    assert kinds_of_events(served, secret).count("answer") == 3


def test_run_goes_on_after_a_grant(served: Served, tmp_path: Path) -> None:
    config, secret = write_config(tmp_path / "tiny.toml"), served.key("poor", budget=99)
    result = distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", key=secret)
    assert isinstance(result.exception, BudgetExhausted)
    assert not (tmp_path / "run").exists(), "what cannot finish is not begun"
    grant_images(served.database, name="poor", images=1)
    summary = one_object(
        distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", "--json", key=secret)
    )
    assert summary["images"]["charged_by_server"] == 100


def test_plan_says_what_may_be_expected_where_it_was_measured(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = expectation.Point(answers=100, pool_images=40, samples=640, accuracy=0.8, seeds=3)
    curve = expectation.Curve(
        dataset="digits",
        image="28x28x1",
        classes=10,
        method="mixed-views",
        student="lenet5-half",
        disclosure="probabilities",
        teacher_accuracy=0.9,
        deviation=0.01,
        points=(point,),
    )
    of_pool = expectation.Point(answers=40, pool_images=40, samples=640, accuracy=0.789, seeds=1)
    alone = curve.model_copy(update={"method": expectation.POOL_ALONE, "points": (of_pool,)})
    monkeypatch.setattr(expectation, "measured_curves", lambda: (curve, alone))
    config = write_config(tmp_path / "tiny.toml", synthesis={"method": "mixed-views"})
    shown = distill("plan", config).stdout
    assert "expected accuracy: 75.0% to 85.0% (mean 80.0%, of 3 seeds). An expectation, no promise: lenet5-h" in shown
    assert "this run differs" not in shown
    of_pool_told = "the pool's 40 answers alone, varied and learnt as few are: 78.9% (mean of 1 seed)"
    assert f"{of_pool_told}. 1.1 points were gained beside them there" in shown
    report = one_object(distill("plan", config, "--json"))
    assert report["expected_accuracy_of_pool_alone"]["mean"] == 0.789
    told = report["expected_accuracy"]
    assert (told["low"], told["high"], told["of"], told["kind"]) == (0.7503, 0.8497, "test set", "expectation")
    worse = distill("plan", config, "--teacher", served.url, key=served.key("hopeful", budget=100)).stdout
    assert (
        "100 answers. But this run differs: its teacher's test accuracy is 75.0%, the measured one's 90.0%" in worse
    )
    unbalanced = {"images": 40, "balanced": False}
    drawn = write_config(tmp_path / "drawn.toml", synthesis={"method": "mixed-views"}, pool=unbalanced)
    assert "this run differs: its pool is not balanced by class" in distill("plan", drawn).stdout
    other = write_config(tmp_path / "other.toml")
    shown = distill("plan", other).stdout
    assert "expected" not in shown
    assert f"{of_pool_told}\n" in shown, "what a method that nobody measured has to beat"
    just_pool = write_config(tmp_path / "pool.toml", synthesis={"images": 0}, budget_images=40)
    shown = distill("plan", just_pool).stdout
    assert "expected accuracy: 78.9% (mean of 1 seed)" in shown
    assert "answers alone" not in shown
    assert one_object(distill("plan", other, "--json"))["expected_accuracy"] is None


def test_plan_says_what_would_be_bought(served: Served, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.toml")
    plan = one_object(distill("plan", config, "--json"))
    assert plan["total"] == sum(plan["phases"].values()) == plan["budget_images"] == 100
    assert plan["phases"]["pool"] == 40
    assert plan["requests"] >= 7
    assert plan["config_digest"] == tiny_config().digest()
    text = distill("plan", config)
    assert text.exit_code == 0
    assert "what would be bought" in text.stdout
    secret = served.key("planner", budget=100)
    assert one_object(distill("plan", config, "--teacher", served.url, "--json", key=secret)) == plan
    assert kinds_of_events(served, secret) == ["create"]  # planning bought nothing


@pytest.mark.parametrize(
    ("changes", "budget", "message"),
    [
        ({"budget_images": 99}, 100, "budget_images is 99; the plan buys 100"),
        ({}, 99, "the plan buys 100 images; 99 of 99 are left on this key"),
        ({"teacher": {"name": "other-classes"}}, 100, "teacher other-classes answers in"),
        ({"teacher": {"name": "tall"}}, 100, r"teacher tall takes \(32, 28, 1\)"),
        ({"student": {"network": "resnet"}}, 100, r"student\.network: network is 'resnet'"),
        ({"pool": {"size": "32x32x1"}}, 100, r"pool\.size is 32x32x1; teacher fake takes 28x28x1"),
    ],
)
def test_what_cannot_finish_is_refused_by_plan_and_by_run(
    served: Served, tmp_path: Path, changes: dict[str, Any], budget: int, message: str, request: pytest.FixtureRequest
) -> None:
    config = write_config(tmp_path / "tiny.toml", **changes)
    secret = served.key(re.sub(r"[^A-Za-z0-9]", "-", request.node.name)[-60:].strip("-"), budget=budget)
    planned = distill("plan", config, "--teacher", served.url, key=secret)
    assert isinstance(planned.exception, ConfigError | BudgetExhausted)
    assert re.search(message, str(planned.exception))
    ran = distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", key=secret)
    assert type(ran.exception) is type(planned.exception)
    assert kinds_of_events(served, secret) == ["create"]
    assert not (tmp_path / "run").exists()


def test_an_unknown_teacher_is_refused_without_a_folder(served: Served, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.toml", teacher={"name": "nobody"})
    result = distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", key=served.key("asker"))
    assert isinstance(result.exception, TeacherRefused)
    assert not (tmp_path / "run").exists()


def test_run_never_writes_over_anything(served: Served, finished: Finished, tmp_path: Path) -> None:
    config = write_config(tmp_path / "tiny.toml")
    result = distill("run", config, "--teacher", served.url, "--out", finished.path, key=finished.secret)
    assert isinstance(result.exception, RunStoreError)
    assert json.loads((finished.path / "summary.json").read_text()) == finished.summary


def test_a_run_is_bought_from_one_version_and_stops_when_it_goes(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exchanged in mid-run: exit code 8, nothing of the new one is paid, and with both served it goes on."""
    old, new = hash_teacher("leaving"), replace(hash_teacher("leaving"), version="2")
    others = [teacher for teacher in served.catalogue.all() if teacher.name != "leaving"]
    calls = 0

    class Leaving(HashClassifier):
        def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
            nonlocal calls
            calls += 1
            if calls == 3:
                served.catalogue.replace([*others, new])
            return super().probabilities(images_nhwc)

    served.catalogue.replace([*others, replace(old, classifier=Leaving())])
    config = write_config(tmp_path / "tiny.toml", teacher={"name": "leaving", "requests_in_flight": 1})
    key, path = served.key("follower"), tmp_path / "run"
    monkeypatch.setenv(KEY_VARIABLE, key)
    assert exit_of_main(monkeypatch, "run", config, "--teacher", served.url, "--out", path) == 8
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("distill: the run is bought from version 1 and from no other, but: teacher_not_found: ")
    assert "of teacher 'leaving' this server has '2'" in message
    assert "then go on with `distill resume`" in message
    with closing(sqlite3.connect(path / "answers.sqlite")) as store:
        kept = store.execute("SELECT version, COUNT(*), SUM(charged) FROM answers").fetchone()
    assert kept[:2] == ("1", 3)
    key_row = next(each for each in list_keys(served.database) if each.name == "follower")
    assert key_row.spent == kept[2], "what was paid is what was kept"

    assert exit_of_main(monkeypatch, "resume", path) == 8
    served.catalogue.replace([*others, old, new])
    summary = one_object(distill("resume", path, "--json", key=key))
    assert summary["teacher"] == {"name": "leaving", "version": "1"}
    assert summary["audit"]["equal"] is True
    served.catalogue.replace(others)


def test_a_lost_store_is_fetched_again_by_resume_and_said_so(served: Served, tmp_path: Path) -> None:
    config, secret = write_config(tmp_path / "tiny.toml", synthesis={"images": 0}), served.key("clumsy", budget=40)
    out = tmp_path / "my run"
    first = one_object(distill("run", config, "--teacher", served.url, "--out", out, "--json", key=secret))
    store = out / "answers.sqlite"
    store.write_bytes(store.read_bytes()[:8192])
    lost = distill("audit", out, key=secret)
    assert isinstance(lost.exception, RunStoreError)
    result = distill("resume", out, "--json", key=secret)
    summary = one_object(result)
    assert "is kept as answers.sqlite.damaged-1. The answers are fetched again, at no charge" in result.stderr
    assert {**summary, "seconds": 0} == {**first, "seconds": 0}
    assert summary["images"]["charged_by_server"] == 40


def test_a_plan_does_not_wait_long_for_a_dead_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PATIENCE_S", 1.0)
    started = time.monotonic()
    config = write_config(tmp_path / "tiny.toml", teacher={"deadline_s": 120.0})
    result = distill("plan", config, "--teacher", "http://127.0.0.1:9", key="tk-any")
    assert isinstance(result.exception, TeacherUnavailable)
    assert "no answer from 127.0.0.1:9 within 1 s" in str(result.exception)
    assert time.monotonic() - started < 10
    assert "settles" not in str(result.exception)
