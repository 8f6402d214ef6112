"""The client's own ledger: the cap is exact whoever asks at once, and every image asked for has an account."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from distill_client.errors import BudgetExhausted, RunStoreError
from distill_client.teachers.paid.allowance import Allowance
from distill_client.teachers.paid.file import StoreFile
from distill_client.teachers.paid.own_ledger import OwnLedger
from distill_client.teachers.paid.store import PaidLabels
from distill_client.teachers.protocol import Answer, ImageFailure
from shared.wire.images import image_digests
from shared.wire.receipts import chain_faults
from tests.distill_client.fakes import FakeTeacher
from tests.distill_client.teachers.test_store import distinct_images
from tests.reliability.processes import ForkServer, wait_until

FAILED = {
    "no": ImageFailure("no", True, "no"),
    "yes": ImageFailure("no", True, "yes"),
    "unknown": ImageFailure("no", True, "unknown"),
}
CARD = FakeTeacher(image_hwc=(3, 4, 1)).card()


def some_digests(start: int, count: int) -> list[bytes]:
    return image_digests(distinct_images(count, start=start))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[OwnLedger]:
    with closing(StoreFile(tmp_path / "answers.sqlite")) as file:
        own = OwnLedger(file)
        own.begin("run", CARD, Allowance(100, Decimal("0.01")))
        yield own


def test_64_threads_ask_for_exactly_what_is_allowed(ledger: OwnLedger) -> None:
    barrier, refused = threading.Barrier(64), list[int]()

    def ask(number: int) -> None:
        barrier.wait()
        for round_ in range(2):
            try:
                ledger.ask(f"{number}-{round_}", some_digests(number, 3))
            except BudgetExhausted as error:
                refused.append(error.spent)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.usage().spent == 99
    assert refused == [99] * (128 - 33)
    assert chain_faults(ledger.events()) == []


def test_money_is_a_cap_too_and_a_changed_file_allows_more_or_less(ledger: OwnLedger) -> None:
    assert Allowance(1000, Decimal("0.1"), Decimal("0.3")).granted() == 3
    assert Allowance(1000, Decimal("0.001"), Decimal("0.0999")).granted() == 99
    ledger.ask("a", some_digests(0, 60))
    assert ledger.allow(Allowance(100, Decimal("0.01"))) is None, "nothing has changed"
    ledger.allow(Allowance(1000, Decimal("0.1"), Decimal("1.65")))  # 60 at 0.01, and 10 more at 0.1
    assert ledger.usage().granted == 70
    with pytest.raises(BudgetExhausted, match="11 more would make 71 of the 70 images"):
        ledger.ask("b", some_digests(100, 11))
    asking = ledger.ask("b", some_digests(100, 10))
    assert ledger.counts().cost == Decimal("1.6")
    ledger.settle("release", asking.sequence)
    assert ledger.counts().cost == Decimal("0.6")
    ledger.allow(Allowance(10, Decimal("0.1")))
    assert ledger.usage().granted == ledger.usage().spent == 60, "what is spent stays allowed, and no more"


def test_what_is_not_settled_is_known_image_by_image(ledger: OwnLedger) -> None:
    digests = some_digests(0, 5)
    asking = ledger.ask("key", digests)
    ledger.settle("answer", asking.sequence, [0, 3], answer_digest="0" * 64)
    ledger.settle("fail", asking.sequence, [1], reason="refused after it was looked at")
    counts = ledger.counts()
    (unsettled,) = counts.unsettled
    assert unsettled.image_digests == (digests[2].hex(), digests[4].hex())
    assert (unsettled.places, unsettled.cost, counts.cost) == ((2, 4), Decimal("0.02"), Decimal("0.05"))
    for places in ([2, 4, 0], None):
        with pytest.raises(RunStoreError, match=r"cannot be settled .* 2 of its 5 are unsettled"):
            ledger.settle("release", asking.sequence, places)
    with pytest.raises(RunStoreError, match="nothing was asked for by event 1 "):
        ledger.settle("release", 1)
    ledger.settle("release", asking.sequence, unsettled.places)
    assert ledger.counts().unsettled == ()
    assert (ledger.counts().spent, ledger.usage().spent) == (3, 3)


def test_a_key_that_is_charged_once_is_counted_once(ledger: OwnLedger) -> None:
    digests = some_digests(0, 4)
    first = ledger.ask("key", digests, is_charged_once=True)
    again = ledger.ask("key", digests, is_charged_once=True)
    assert (first.is_new, again.is_new, again.sequence) == (True, False, first.sequence)
    assert ledger.usage().spent == 4
    assert ledger.ask("key", digests).is_new, "but not where the teacher charges every call"
    assert ledger.ask("key", some_digests(9, 4), is_charged_once=True).is_new, "nor for other images"
    assert ledger.usage().spent == 12


PYTHON = ForkServer("tests.reliability.python_program:main")
ASKER = """
import sys
from decimal import Decimal
from pathlib import Path
from tests.distill_client.teachers.test_own_ledger import OwnLedger, StoreFile, some_digests
ledger = OwnLedger(StoreFile(Path(sys.argv[1])))
for number in range(100_000):
    asking = ledger.ask(f"{sys.argv[2]}-{number}", some_digests(number % 200, 2))
    print(asking.sequence, flush=True)
    if number % 3:
        ledger.settle("answer" if number % 3 == 1 else "release", asking.sequence)
"""


def test_processes_killed_while_they_ask_lose_no_count(tmp_path: Path) -> None:
    """What a process was told is counted, is counted after SIGKILL, whatever it was doing."""
    path = tmp_path / "answers.sqlite"
    with closing(StoreFile(path)) as file:
        OwnLedger(file).begin("run", CARD, Allowance(100_000))
    told = list[int]()
    for number in range(3):
        said = tmp_path / f"asker-{number}.out"
        said.touch()
        process = PYTHON.start("python", ASKER, path, number, log=said.with_suffix(".log"))
        wait_until(lambda said=said, lines=20 + number: said.read_text().count("\n") >= lines)  # type: ignore[misc]
        assert process.kill()
        told += [int(line) for line in said.read_text().splitlines(keepends=True) if line.endswith("\n")]
    with closing(StoreFile(path)) as file:
        ledger = OwnLedger(file)
        counts = ledger.counts()
        assert {event.sequence for event in ledger.events() if event.kind == "ask"} >= set(told)
        assert counts.spent == ledger.usage().spent == counts.answered + counts.failed + counts.unsettled_images
        assert chain_faults(ledger.events()) == []


class OwnBooks(RuleBasedStateMachine):
    """Batches of one store, asked for and answered in every way; a model keeps the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self._open()
        self.granted = self.spent = self.answered = self.failed = 0
        self.stages = 0

    def _open(self) -> None:
        self.store = PaidLabels(Path(self._folder.name) / "answers.sqlite", run_id="0" * 32)
        self.ledger = self.store.own_ledger

    def teardown(self) -> None:
        self.store.close()
        self._folder.cleanup()

    @initialize(granted=st.integers(0, 40))
    def begin(self, granted: int) -> None:
        self.ledger.begin("run", CARD, Allowance(granted))
        self.granted = granted

    @rule(granted=st.integers(0, 60))
    def allow(self, granted: int) -> None:
        self.ledger.allow(Allowance(granted))
        self.granted = max(self.spent, granted)

    @rule(images=st.integers(1, 6), per_request=st.integers(1, 4))
    def record(self, images: int, per_request: int) -> None:
        fresh = distinct_images(images, start=10 * self.stages)
        self.store.record_stage(f"stage-{self.stages}", fresh, images_per_request=per_request)
        self.stages += 1

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self._open()

    @precondition(lambda self: self.stages)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        waiting = [n for stage in self.store.stages() for n in self.store.unanswered(stage)]
        if not waiting:
            return
        number = data.draw(st.sampled_from(waiting))
        batch = self.store.read_batch(number)
        digests = image_digests(batch.images_nhwc)
        if self.spent + len(digests) > self.granted:
            with pytest.raises(BudgetExhausted):
                self.ledger.ask(batch.idempotency_key, digests)
            return
        asking = self.ledger.ask(batch.idempotency_key, digests)
        self.spent += len(digests)
        outcome = data.draw(st.sampled_from(["lost", "refused", "charged", "answered"]))
        if outcome == "refused":
            self.ledger.settle("release", asking.sequence)
            self.spent -= len(digests)
        elif outcome == "charged":
            self.ledger.settle("fail", asking.sequence)
            self.failed += len(digests)
        elif outcome == "answered":
            charges = st.sampled_from(["answer", "no", "yes", "unknown"])
            drawn = data.draw(st.lists(charges, min_size=len(digests), max_size=len(digests)))
            failures = {i: FAILED[each] for i, each in enumerate(drawn) if each != "answer"}
            values = np.arange(len(digests), dtype=np.int64)
            answer = Answer(
                values, "1", "label", charged=len(digests), failures=failures, ask_sequence=asking.sequence
            )
            self.store.keep_answer(number, answer)
            self.answered += drawn.count("answer")
            self.failed += drawn.count("yes")
            self.spent -= drawn.count("no")

    @precondition(lambda self: self.ledger.exists and self.ledger.counts().unsettled)
    @rule(data=st.data(), is_charged=st.booleans())
    def settle(self, data: st.DataObject, is_charged: bool) -> None:
        each = data.draw(st.sampled_from(self.ledger.counts().unsettled))
        self.ledger.settle("fail" if is_charged else "release", each.sequence, each.places)
        self.failed += each.images if is_charged else 0
        self.spent -= 0 if is_charged else each.images

    @invariant()
    def adds_up(self) -> None:
        if not self.ledger.exists:
            return
        counts, usage = self.ledger.counts(), self.ledger.usage()
        assert (counts.spent, counts.granted) == (usage.spent, usage.granted) == (self.spent, self.granted)
        assert (counts.answered, counts.failed) == (self.answered, self.failed)
        assert counts.spent == counts.answered + counts.failed + counts.unsettled_images <= counts.granted
        assert self.store.images_bought() == counts.answered
        answers = [event for event in self.ledger.events() if event.kind == "answer"]
        assert {(p.event_sequence, p.event_hash, p.input_digest) for p in self.store.purchases()} == {
            (event.sequence, event.hash, event.input_digest) for event in answers
        }
        assert chain_faults(self.ledger.events()) == []


TestOwnBooks = OwnBooks.TestCase
TestOwnBooks.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_a_full_disk_counts_nothing_by_halves(ledger: OwnLedger) -> None:
    before = ledger.usage()
    connection = ledger._file._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")

    def ask_on() -> None:
        for number in range(100):
            ledger.ask(f"key-{number}", some_digests(0, 1))

    with pytest.raises(RunStoreError, match="full"):
        ask_on()
    connection.execute("PRAGMA max_page_count = 1000000")
    counts = ledger.counts()
    assert counts.spent == ledger.usage().spent == len(counts.unsettled) >= before.spent
    with closing(sqlite3.connect(ledger._file.path)) as other:
        assert other.execute("PRAGMA quick_check").fetchone() == ("ok",)
