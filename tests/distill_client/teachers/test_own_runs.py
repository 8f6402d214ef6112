"""Whole runs that count for themselves: caps, resumption, settling, audits without a network, lost stores."""

import dataclasses
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from distill_client.checking.findings import findings
from distill_client.checking.probing import IMAGES, IMAGES_ASKED, Images, probe
from distill_client.cli import app
from distill_client.errors import BudgetExhausted, ConfigError, RunStoreError, TeacherUnavailable
from distill_client.mock.answering import HashAnswers
from distill_client.mock.counting import Counts
from distill_client.mock.faults import FAULTS, Faults
from distill_client.mock.serving import Mock, MockServer, teacher_toml
from distill_client.mock.shapes import SHAPES, Mocked
from distill_client.teachers.protocol import Answer
from tests.distill_client.fakes import FakeTeacher

CONFIG = """
name = "own"
seed = 1
budget_images = 40
teacher = { name = "mock", images_per_request = 4, requests_in_flight = 2, deadline_s = 1 }
pool = { dataset = "digits", images = 40 }
synthesis = { images = 0 }
student = { network = "lenet5-half" }
training = { steps = 4, batch_size = 32 }
evaluation = { dataset = "digits" }
"""


@dataclasses.dataclass
class Place:
    folder: Path
    server: MockServer

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def counts(self) -> dict[str, int]:
        content: dict[str, int] = self.server.mock.counts.as_json()
        return content

    def misbehave(self, faults: str) -> None:
        self.server.mock = dataclasses.replace(self.server.mock, faults=Faults.parse(faults, 1))

    def write(self, **keys: object) -> Path:
        text = teacher_toml(self.server.mock, self.server.url).replace("timeout_s = 5", "timeout_s = 0.3")
        for key, value in keys.items():
            lines = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
            text = f"{key} = {value}\n" + "\n".join(lines)
        (self.folder / "teacher.toml").write_text(text)
        return self.folder / "teacher.toml"

    def distill(self, *words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    def begin(self, file: Path) -> Result:
        (self.folder / "own.toml").write_text(CONFIG)
        return self.distill("run", self.folder / "own.toml", "--teacher", file, "--out", self.run)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    mocked = Mocked(tuple("0123456789"), (28, 28, 1), 4)
    counts = Counts(honours_idempotency=False)
    mock = Mock(SHAPES["vision"](mocked), HashAnswers(10), Faults.parse("", 0), counts)
    with MockServer(("127.0.0.1", 0), mock) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Place(tmp_path, server)
        server.shutdown()


def test_price_and_cap_are_shown_and_too_small_a_cap_buys_nothing(place: Place) -> None:
    (place.folder / "own.toml").write_text(CONFIG)
    plan = place.distill("plan", place.folder / "own.toml", "--teacher", place.write(max_cost=1), "--json")
    assert json.loads(plan.stdout)["price"] == {
        "per_image": "0.001",
        "total": "0.040",
        "max_cost": "1",
        "currency": "USD",
    }
    refused = place.begin(place.write(max_cost=0.0399))
    assert isinstance(refused.exception, BudgetExhausted)
    assert "39 of 39 are left; allow 1 more by max_queries and max_cost" in str(refused.exception)
    assert place.counts["requests"] == 0


def test_what_is_unknown_is_listed_settled_and_paid_for_by_a_raised_cap(place: Place) -> None:
    place.misbehave("timeouts-after-charge=1")
    stopped = place.begin(place.write(max_queries=40))
    assert isinstance(stopped.exception, TeacherUnavailable | BudgetExhausted)
    place.misbehave("")
    again = place.distill("resume", place.run)
    assert isinstance(again.exception, BudgetExhausted), "what is not known counts as spent"
    assert "`distill settle` lists it" in str(again.exception)
    listed = json.loads(place.distill("settle", place.run, "--json").stdout)
    lost = listed["unsettled_images"]
    assert lost == place.counts["charged_images"] > 0
    assert listed["spent"] == lost
    one = listed["unsettled"][0]
    place.distill("settle", place.run, one["sequence"], "--charged")
    assert json.loads(place.distill("settle", place.run, "--json").stdout)["failed"] == one["images"]
    wrong = place.distill("settle", place.run, "99999", "--charged")
    assert isinstance(wrong.exception, ConfigError)
    done = place.distill("resume", place.run, "--teacher", place.write(max_queries=40 + lost))
    assert done.exit_code == 0, done.exception
    report = json.loads(place.distill("audit", place.run, "--json").stdout)
    assert (report["equal"], report["bought"], report["spent"]) == (True, 40, 40 + lost)
    assert report["counted_by"] == "client"
    assert place.counts["charged_images"] == 40 + lost
    settled = place.distill("settle", place.run, "all", "--not-charged")
    assert "nothing is unsettled" in settled.stdout
    summary = json.loads((place.run / "summary.json").read_text())
    assert summary["unsettled"] == []
    assert (summary["images"]["spent"], summary["images"]["released"] >= lost - one["images"]) == (
        40 + one["images"],
        True,
    )
    assert "the client's own ledger" in (place.run / "student" / "README.md").read_text()


def test_images_that_fail_alone_are_asked_for_alone(place: Place) -> None:
    place.misbehave("partial=0.4")
    assert place.begin(place.write()).exit_code == 0
    report = json.loads(place.distill("audit", place.run, "--json").stdout)
    assert (report["bought"], report["answered"], report["unsettled_images"]) == (40, 40, 0)
    assert place.counts["charged_images"] == report["spent"] == 40
    assert report["released"] > 0


def test_a_lost_or_damaged_store_is_not_paid_for_again(place: Place) -> None:
    assert place.begin(place.write()).exit_code == 0
    requests, store = place.counts["requests"], place.run / "answers.sqlite"
    whole = store.read_bytes()
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE answers SET answer_npy = x'00' WHERE batch = 2")
    damaged = place.distill("resume", place.run)
    assert isinstance(damaged.exception, RunStoreError)
    assert "1 answer in answers.sqlite were damaged (batches 2). It held" in str(damaged.exception)
    for content in (b"", whole[:5000]):
        store.write_bytes(content)
        lost = place.distill("resume", place.run)
        assert isinstance(lost.exception, RunStoreError)
        assert "would be paid for everything again, so nothing is sent" in str(lost.exception)
    assert place.counts["requests"] == requests


FIRST = "DELETE FROM own_events WHERE sequence = (SELECT min(sequence) FROM own_events WHERE event LIKE {!r})"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM answers WHERE batch = 3", "and its answer is not kept"),
        (FIRST.format('%"kind":"ask"%'), "cannot be counted"),
        (FIRST.format('%"kind":"answer"%'), "that answers it"),
        ("UPDATE own_events SET event = replace(event, '\"spent\":4', '\"spent\":3')", "was edited"),
        ("UPDATE own_asks SET digests = zeroblob(length(digests)) WHERE sequence = 2", "not those that its event"),
        ("UPDATE own_asks SET open = 1 WHERE sequence = 2", "leave another number open"),
        ("UPDATE answers SET answer_digest = '00' WHERE batch = 1", "answer digest is 00 in the store"),
    ],
)
def test_an_audit_finds_what_was_changed_afterwards(place: Place, statement: str, told: str) -> None:
    assert place.begin(place.write()).exit_code == 0
    with closing(sqlite3.connect(place.run / "answers.sqlite")) as connection, connection:
        connection.execute(statement)
    audit = place.distill("audit", place.run)
    assert audit.exit_code != 0
    assert told in str(audit.exception)


def test_another_version_or_list_of_classes_is_never_mixed_in(place: Place) -> None:
    place.misbehave("timeouts-before-charge=1")
    place.begin(place.write())
    place.misbehave("")
    for keys in ({"version": '"2"'}, {"answers": '"label"'}, {"classes": json.dumps(list("1023456789"))}):
        refused = place.distill("resume", place.run, "--teacher", place.write(**keys))
        assert isinstance(refused.exception, RunStoreError | ConfigError), keys
    assert place.counts["charged_images"] == 0


def test_faults_are_drawn_by_seed_in_their_shares_and_mistakes_are_named() -> None:
    faults = Faults.parse("throttle=0.2,cut=0.05", 3)
    drawn = [faults.draw(number) for number in range(4000)]
    assert drawn == [Faults.parse("throttle=0.2,cut=0.05", 3).draw(number) for number in range(4000)]
    assert abs(drawn.count("throttle") / 4000 - 0.2) < 0.03
    assert abs(drawn.count("cut") / 4000 - 0.05) < 0.02
    for text in ("lightning=1", "cut=x", "cut=2", "cut=0.6,slow=0.6", "cut=0.1,cut=0.1"):
        with pytest.raises(ConfigError, match="--faults"):
            Faults.parse(text, 0)
    assert len(FAULTS) == 8


class Shuffling(FakeTeacher):
    """Gives a batch's answers to one another."""

    def label(self, images_nhwc: Images, idempotency_key: str) -> Answer:
        answer = super().label(images_nhwc, idempotency_key)
        return dataclasses.replace(answer, values=np.roll(answer.values, 1, axis=0))


def test_a_check_sees_that_answers_go_astray() -> None:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 1), np.uint8)
    for teacher, verdict in ((FakeTeacher(), "good"), (Shuffling(), "bad")):
        seen = probe(teacher, teacher.card(), images, 8, lambda _: None)
        found = {finding.what: finding for finding in findings(teacher.card(), seen, [])}
        assert found["order"].verdict == verdict
        assert teacher.spent == IMAGES_ASKED == 20
    assert found["disclosure"].verdict == "good"


def test_a_check_says_what_it_costs_and_asks_for_no_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    file = place.write()
    silent = place.distill("teacher", "check", file)
    assert isinstance(silent.exception, ConfigError)
    assert place.counts["requests"] == 0
    done = place.distill("teacher", "check", file, "--yes", "--images", "digits", "--json")
    report = json.loads(done.stdout)
    assert (done.exit_code, report["fit"], report["budget"]["spent"]) == (0, True, 20)
    assert place.counts["charged_images"] == 20
    assert Path(report["ledger"]).exists()
    assert "20 images, 0.02 USD" in done.stderr


def test_a_check_that_loses_answers_asks_for_no_more_than_it_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    place.misbehave("cut=0.5")
    checked = place.distill("teacher", "check", place.write(), "--yes")
    assert isinstance(checked.exception, BudgetExhausted)
    assert "not finished: answers were lost" in str(checked.exception)
    assert 0 < place.counts["charged_images"] <= 20
    place.misbehave("")
    unable = place.distill("teacher", "check", place.write(max_queries=19), "--yes")
    assert "max_queries and max_cost of the teacher's file allow 19" in str(unable.exception)


def test_a_check_notes_that_a_file_says_more_or_fewer_classes_than_are_given() -> None:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 28, 28, 1), np.uint8)
    seen = probe(FakeTeacher(), FakeTeacher().card(), images, 8, lambda _: None)
    card = FakeTeacher().card().model_copy(update={"disclosure": "top-k:3"})
    seen = dataclasses.replace(seen, disclosures=frozenset({(card.version, card.disclosure)}))
    found = {finding.what: finding for finding in findings(card, seen, [])}["disclosure"]
    assert (found.verdict, found.told.rpartition("; ")[2]) == ("note", "it says 3 classes, and gives 10")
    values_nk = seen.values.astype(np.float32)
    cut = np.where(values_nk < np.sort(values_nk)[:, [-3]], np.float32("nan"), values_nk)
    few = dataclasses.replace(seen, values=cut, together=np.nan_to_num(cut))
    assert {finding.what: finding for finding in findings(card, few, [])}["disclosure"].verdict == "good"
