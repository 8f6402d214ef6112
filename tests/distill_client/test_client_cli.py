"""The `distill` command, against the real application behind a real socket."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stamina
import tomli_w
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from distill_client.cli import KEY_VARIABLE, app, main, planning
from distill_client.errors import (
    AuditMismatch,
    BudgetExhausted,
    ConfigError,
    ReceiptFault,
    RunStoreError,
    TeacherRefused,
    TeacherUnavailable,
)
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.answers import read_answer
from distill_client.teachers.native.teacher import connect
from shared.datasets import load_dataset
from shared.wire import contracts
from shared.wire.contracts import Disclosure, InputSpec
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import TeacherAnswers, write_teacher_answers
from teacher_server.app import create_app
from teacher_server.ledger.audit.audit_lines import write_export
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key, grant_images, list_keys
from teacher_server.ledger.lifecycle.opening import open_database
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.catalogue import Catalogue
from teacher_server.teachers.teacher import Teacher
from tests.distill_client.fakes import answer_to, tiny_config

DIGITS = tuple("0123456789")
PROGRAM = Path(sys.executable).parent / "distill"


class HashClassifier:
    classes = len(DIGITS)

    def probabilities(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return answer_to(images_nhwc).astype(np.float32)


def hash_teacher(name: str, class_names: tuple[str, ...] = DIGITS, height: int = 28) -> Teacher:
    return Teacher(
        name=name,
        version="1",
        class_names=class_names,
        input=InputSpec(height=height, width=28, channels=1),
        classifier=HashClassifier(),
        test_accuracy=0.75,
        test_dataset="digits",
    )


@dataclass(frozen=True)
class Served:
    """A server at ``url``, and its ledger for making keys."""

    url: str
    database: Database
    catalogue: Catalogue

    def key(self, name: str, budget: int = 100) -> str:
        parsed = Disclosure.parse("probabilities")
        return create_key(self.database, name=name, budget=budget, disclosure=parsed, expires_at=None)[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    ledger = f"sqlite:///{tmp_path_factory.mktemp('server') / 'ledger.db'}"
    settings = TeacherSettings.load(bundles=(Path("unused"),), ledger=ledger)
    teachers = [
        hash_teacher("fake"),
        hash_teacher("other-classes", tuple("abcdefghij")),
        hash_teacher("tall", height=32),
    ]
    app = create_app(settings, teachers)
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with closing(open_database(ledger, create=True)) as database:
        yield Served(f"http://127.0.0.1:{port}", database, app.state.server.catalogue)
    server.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No key unless a test gives one; the retry announcement that the command installs is taken back."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    yield
    stamina.instrumentation.set_on_retry_hooks(None)


def write_config(path: Path, **changes: Any) -> Path:
    content = tiny_config(**changes).model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


def distill(*words: object, key: str = "") -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={KEY_VARIABLE: key})


def one_object(result: Result) -> dict[str, Any]:
    """What --json printed: one object on one line, and nothing else on standard output."""
    assert result.exit_code == 0, (result.output, result.exception)
    (line,) = result.stdout.splitlines()
    content: dict[str, Any] = json.loads(line)
    return content


@dataclass(frozen=True)
class Finished:
    path: Path
    secret: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def finished(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run brought to its end by the command; tests that change it put it back."""
    folder, secret = tmp_path_factory.mktemp("cli"), served.key("finished")
    config = write_config(folder / "tiny.toml")
    result = distill("run", config, "--teacher", served.url, "--out", folder / "run", "--json", key=secret)
    return Finished(folder / "run", secret, one_object(result))


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


def kinds_of_events(served: Served, secret: str) -> list[str]:
    with closing(connect(served.url, secret, "fake", manners=Manners(5, requests_in_flight=8))) as teacher:
        return [event.kind for event in teacher.events()]


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


def test_audit_prints_the_counts_of_both_sides(finished: Finished) -> None:
    report = one_object(distill("audit", finished.path, "--json", key=finished.secret))
    assert (report["bought"], report["charged_by_server"], report["in_audit_log"]) == (100, 100, 100)
    assert report["equal"] is True
    assert report["faults"] == []
    text = distill("audit", finished.path, key=finished.secret)
    assert text.exit_code == 0
    assert [line.split()[-1] for line in text.stdout.splitlines()[:3]] == ["100"] * 3
    assert "every one of the 8 answers has a receipt" in text.stdout.splitlines()[-1]


def test_another_key_can_neither_audit_nor_go_on(served: Served, finished: Finished) -> None:
    """Its account has nothing of this run, and batches in flight would be charged a second time."""
    other = served.key("other")
    for command in ("audit", "resume"):
        result = distill(command, finished.path, "--json", key=other)
        assert isinstance(result.exception, RunStoreError)
        assert "begun with another key" in str(result.exception)
    assert kinds_of_events(served, other) == ["create"]


def test_evaluate_asks_the_teacher_nothing(finished: Finished, tmp_path: Path) -> None:
    test = load_dataset("digits", "test")
    write_teacher_answers(
        tmp_path / "answers.npz",
        TeacherAnswers(
            teacher="fake",
            version="1",
            dataset="digits",
            split="test",
            images_digest=batch_digest(image_digests(test.images_nhwc)),
            probabilities_nk=answer_to(test.images_nhwc).astype(np.float32),
        ),
    )
    summary = one_object(
        distill("evaluate", finished.path, "--teacher-answers", tmp_path / "answers.npz", "--json", key="")
    )
    assert summary["agreement_images"] == 450
    assert one_object(distill("evaluate", finished.path, "--json")) == finished.summary


def test_predict_names_a_class_for_every_file(finished: Finished, tmp_path: Path) -> None:
    files = [tmp_path / "a [1].png", tmp_path / "b.jpg"]
    for file in files:
        Image.new("L", (40, 30), 90).save(file)
    predictions = one_object(distill("predict", finished.path, *files, "--json"))["predictions"]
    assert [prediction["file"] for prediction in predictions] == [str(file) for file in files]
    bad = tmp_path / "text.jpg"
    bad.write_text("no picture")
    some = distill("predict", finished.path, files[0], bad, "--json")
    assert some.exit_code == 2
    assert [skipped["file"] for skipped in json.loads(some.stdout)["skipped"]] == [str(bad)]
    assert f"distill: {bad}: the file cannot be decoded" in some.stderr
    text = distill("predict", finished.path, *files)
    assert [line.rpartition(":")[0] for line in text.stdout.splitlines()] == [str(file) for file in files]


class Quiet(BaseHTTPRequestHandler):
    """Has a method for nothing, so that it answers everything with an HTML page; as 404."""

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(404, message)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def web_site() -> Iterator[str]:
    """The address of something that is no teacher: every page is missing, in HTML."""
    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def exit_of_main(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["distill", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_exit_codes_and_one_line_on_standard_error(
    served: Served,
    finished: Finished,
    web_site: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "tiny.toml")
    at_nobody = write_config(tmp_path / "nobody.toml", teacher={"name": "nobody"})
    hurried = write_config(tmp_path / "hurried.toml", teacher={"deadline_s": 0.05})
    at_odd_name = write_config(tmp_path / "odd.toml", teacher={"name": "../docs?"})
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text("{}")  # pydantic's own message has many lines
    edited = tmp_path / "edited"
    shutil.copytree(finished.path, edited)
    with closing(sqlite3.connect(edited / "answers.sqlite")) as store, store:
        store.execute("UPDATE answers SET event_hash = ? WHERE batch = 1", ("0" * 64,))
    monkeypatch.setenv(KEY_VARIABLE, finished.secret)
    for code, message, words in (
        (2, "cannot be read", ("plan", tmp_path / "missing.toml")),
        (2, "budget_images", ("plan", write_config(tmp_path / "poor.toml", budget_images=99))),
        (2, "device is 'tpu'", ("run", config, "--teacher", served.url, "--out", tmp_path / "x", "--device", "tpu")),
        (2, "teacher address is", ("plan", config, "--teacher", "nowhere")),
        (3, "teacher_not_found", ("plan", at_nobody, "--teacher", served.url)),
        (3, "not_found", ("plan", at_odd_name, "--teacher", served.url)),
        (4, "no answer from 127.0.0.1:9 ", ("plan", hurried, "--teacher", "http://127.0.0.1:9")),
        (5, "is this a teacher's address?", ("plan", config, "--teacher", web_site)),
        (6, "not a run folder", ("resume", tmp_path / "missing")),
        (6, "not a run folder", ("audit", broken)),
        (7, "event hash is 0000", ("audit", edited)),
    ):
        assert exit_of_main(monkeypatch, *words) == code, words
        captured = capsys.readouterr()
        *before, last = captured.err.splitlines()
        assert last.startswith("distill: "), captured.err
        assert message in last
        assert all("asking again" in line for line in before)
        assert "Traceback" not in captured.err


def test_a_key_that_is_not_there_or_not_known_names_the_variable(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "tiny.toml")
    for key, code in (("", 2), ("tk-nonsense", 3)):
        monkeypatch.setenv(KEY_VARIABLE, key)
        assert exit_of_main(monkeypatch, "plan", config, "--teacher", served.url) == code
        assert KEY_VARIABLE in capsys.readouterr().err


def test_a_disk_that_refuses_is_one_line_too(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = finished.path / "report.png"
    kept = picture.read_bytes()
    picture.unlink()
    picture.mkdir()  # a file cannot take its place
    try:
        assert exit_of_main(monkeypatch, "evaluate", finished.path) == 6
    finally:
        picture.rmdir()
        picture.write_bytes(kept)
        (finished.path / "report.png.tmp").unlink(missing_ok=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distill: ")
    assert "report.png" in line


@pytest.mark.parametrize(
    ("words", "code"),
    [(["plan", "missing.toml"], 2), (["audit", "missing"], 6), (["frobnicate"], 2), (["--help"], 0)],
)
def test_the_installed_program(tmp_path: Path, words: list[str], code: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(PROGRAM), *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if words[0] in ("plan", "audit"):
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1


def signing_key_of(served: Served, secret: str) -> str:
    with closing(connect(served.url, secret, "fake", manners=Manners(5, requests_in_flight=8))) as teacher:
        keys = teacher.signing_keys()
    assert keys is not None
    return keys.keys[-1].fingerprint


def test_a_run_pins_the_signing_key_it_finds_and_audits_to_files_without_a_server(
    served: Served, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = signing_key_of(served, finished.secret)
    assert json.loads((finished.path / "run.json").read_text())["pin"]["signing_key"] == pinned
    assert finished.summary["audit"]["pinned"] == pinned
    assert finished.summary["audit"]["receipts"] == 8
    assert f"verified by the signing key pinned as {pinned}" in finished.summary["audit"]["sentence"]
    receipts, log = tmp_path / "the receipts.jsonl", tmp_path / "log.jsonl"
    with log.open("w") as stream:
        write_export(served.database, "finished", stream)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    result = distill("audit", finished.path, "--log", log, "--receipts", receipts, "--json")
    report = one_object(result)
    assert f"8 receipts of 8 answers written to {receipts}" in result.stderr
    assert (report["equal"], report["receipts"], report["faults"], report["differences"]) == (True, 8, [], [])
    assert report["last_receipt"] == finished.summary["last_receipt"]
    summary = json.loads((finished.path / "summary.json").read_text())
    card = json.loads((finished.path / "student" / "card.json").read_text())
    assert summary["audit"]["sentence"] == card["audit"] == report["sentence"]
    assert "in the log of log.jsonl" in (finished.path / "student" / "README.md").read_text()
    assert len(receipts.read_text().splitlines()) == 8
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, tmp_path / "no" / "receipts.jsonl"):
        refused = distill("audit", finished.path, "--log", log, "--receipts", place)
        assert isinstance(refused.exception, ConfigError)
        assert f"--receipts is {place}; allowed is a plain file" in str(refused.exception)
    assert (tmp_path / "pipe").is_fifo()

    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-2]))
    cut = distill("audit", finished.path, "--log", log, "--json")
    assert isinstance(cut.exception, AuditMismatch)
    assert cut.exception.exit_code == 7
    differences = json.loads(cut.stdout)["differences"]
    assert {each["kind"] for each in differences} == {"export", "log", "evidence"}
    assert json.loads((finished.path / "summary.json").read_text())["audit"]["equal"] is False
    evidence = sorted((finished.path / "evidence").iterdir())
    assert len(evidence) == 2
    shutil.rmtree(finished.path / "evidence")
    one_object(distill("audit", finished.path, "--json", key=finished.secret))
    assert json.loads((finished.path / "summary.json").read_text()) == finished.summary


def test_a_signing_key_demanded_ahead_is_pinned_or_nothing_begins(served: Served, tmp_path: Path) -> None:
    config, secret = write_config(tmp_path / "tiny.toml", synthesis={"images": 0}), served.key("careful", budget=40)
    words = ("run", config, "--teacher", served.url, "--out", tmp_path / "run", "--json", "--signing-key")
    for wrong, error, message in (
        ("abc", ConfigError, "--signing-key is 'abc'; allowed is a fingerprint of 64 hexadecimal digits"),
        ("ab" * 32, ReceiptFault, "which does not follow by endorsements from abab"),
    ):
        refused = distill(*words, wrong, key=secret)
        assert isinstance(refused.exception, error)
        assert message in str(refused.exception)
        assert not (tmp_path / "run").exists()
    right = signing_key_of(served, secret)
    assert one_object(distill(*words, right, key=secret))["audit"]["pinned"] == right


def test_a_server_that_does_not_sign_is_said_once_and_in_the_report(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server of an earlier version: it has no such address, and its answers carry no receipts."""

    def without_receipt(*arguments: Any, **keywords: Any) -> Any:
        return replace(read_answer(*arguments, **keywords), receipt="")

    monkeypatch.setattr("distill_client.teachers.native.teacher.read_answer", without_receipt)
    monkeypatch.setattr(contracts, "SIGNING_KEYS_PATH", "/.well-known/nothing")
    config, secret = write_config(tmp_path / "tiny.toml", synthesis={"images": 0}), served.key("unsigned", budget=40)
    result = distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", key=secret)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stderr.count("signs no receipts: the counts are not proved by receipts") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "counts not proved by receipts" in summary["audit"]["sentence"]
    assert summary["last_receipt"] is None
    refused = distill(
        "run", config, "--teacher", served.url, "--out", tmp_path / "no", "--signing-key", "ab" * 32, key=secret
    )
    assert isinstance(refused.exception, ReceiptFault)


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


def test_files_and_servers_are_not_compared_with_at_once(finished: Finished, tmp_path: Path) -> None:
    result = distill("audit", finished.path, "--log", tmp_path / "x", "--teacher", "http://127.0.0.1:9")
    assert isinstance(result.exception, ConfigError)
    assert "give one of them" in str(result.exception)
    missing = distill("audit", finished.path, "--log", tmp_path / "x")
    assert isinstance(missing.exception, RunStoreError)
    assert "cannot be read" in str(missing.exception)


def test_a_charge_whose_answer_is_missing_here_is_found_and_put_right(served: Served, tmp_path: Path) -> None:
    """An answer is lost from the run folder: the audit names it, and resume gets it again without a charge."""
    config, secret = write_config(tmp_path / "tiny.toml", synthesis={"images": 0}), served.key("loser", budget=40)
    one_object(distill("run", config, "--teacher", served.url, "--out", tmp_path / "run", "--json", key=secret))
    with closing(sqlite3.connect(tmp_path / "run" / "answers.sqlite")) as store:
        store.execute("DELETE FROM answers WHERE batch = 2")
        store.commit()
    mismatch = distill("audit", tmp_path / "run", key=secret)
    assert isinstance(mismatch.exception, AuditMismatch)
    free = f"asking again is free, `distill resume {tmp_path / 'run'}` does it"
    # Which of the requests in flight was charged first is open.
    found = re.search(
        r"\(16 images\) is charged, event [2-4], but its answer is not here: (.*)", str(mismatch.exception)
    )
    assert found
    assert found[1].startswith(free)
    summary = one_object(distill("resume", tmp_path / "run", "--json", key=secret))
    assert summary["images"]["charged_by_server"] == summary["images"]["bought"] == 40
