"""The ledger against a model of a few lines, through every order of actions that hypothesis thinks of."""

import shutil
import signal
import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger import tables
from teacher_server.ledger.charging.answers import Answered
from teacher_server.ledger.keys.issuing import Key, grant_images, list_keys, revoke_key
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.lifecycle.opening import open_database
from tests.ledger_places import LedgerPlace, postgresql_place, sqlite_place
from tests.postgresql import name_of
from tests.reliability.processes import ForkServer
from tests.teacher_server.ledger.crashing import STATEMENTS_MAX
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge, computed, question
from tests.teacher_server.support import new_key

NAMES = ("ada", "bob")
BATCHES = ("a", "b", "c", "d", "e")
LONG_AGO = "2020-01-01T00:00:00.000000+00:00"


@dataclass
class ModelKey:
    """All that the ledger promises of a key; ``bought`` is what each idempotency key was answered for."""

    key: Key
    granted: int
    is_revoked: bool = False
    is_expired: bool = False
    grants: int = 0
    bought: dict[str, int] = field(default_factory=dict)
    told: dict[str, Answered] = field(default_factory=dict)

    @property
    def spent(self) -> int:
        return sum(self.bought.values())

    def refuses(self, images: int) -> ErrorCode | None:
        if self.is_revoked or self.is_expired:
            return ErrorCode.UNAUTHENTICATED
        return ErrorCode.BUDGET_EXHAUSTED if self.spent + images > self.granted else None

    def buy(self, batch: str, images: int) -> ErrorCode | None:
        if batch in self.bought:
            return None
        if refusal := self.refuses(images):
            return refusal
        self.bought[batch] = images
        return None


class LedgerMachine(RuleBasedStateMachine):
    """Two keys at most; five idempotency keys, so that they meet again."""

    template: LedgerPlace
    forks: ForkServer
    shares_commits: bool

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.template.signing_key.parent))
        self.place = copied(self.template, self.folder)
        self.model: dict[str, ModelKey] = {}
        self.open_again()

    def open_again(self) -> None:
        self.database = open_database(self.place.url, create=False, signing_key=self.place.signing_key)
        if self.shares_commits:
            self.database.share_commits()

    @rule(name=st.sampled_from(NAMES), budget=st.integers(0, 12))
    def create(self, name: str, budget: int) -> None:
        if name in self.model:
            with pytest.raises(OperatorError):
                new_key(self.database, name, budget=budget)
        else:
            self.model[name] = ModelKey(new_key(self.database, name, budget=budget), budget)

    @rule(name=st.sampled_from(NAMES), images=st.integers(-1, 6))
    def grant(self, name: str, images: int) -> None:
        known = self.model.get(name)
        if known is None or known.is_revoked or images < 1:
            with pytest.raises(OperatorError):
                grant_images(self.database, name=name, images=images)
        else:
            known.granted += images
            known.grants += 1
            assert grant_images(self.database, name=name, images=images).granted == known.granted

    @precondition(lambda self: self.model)
    @rule(name=st.sampled_from(NAMES), seldom=st.integers(0, 3))
    def revoke(self, name: str, seldom: int) -> None:
        if name in self.model and seldom == 0:
            revoke_key(self.database, name=name)
            self.model[name].is_revoked = True

    @precondition(lambda self: self.model)
    @rule(name=st.sampled_from(NAMES), seldom=st.integers(0, 3))
    def expire(self, name: str, seldom: int) -> None:
        if name in self.model and seldom == 0:
            with self.database.writing() as connection:
                connection.execute(update(tables.keys).where(tables.keys.c.name == name).values(expires_at=LONG_AGO))
            self.model[name].is_expired = True

    @precondition(lambda self: self.model)
    @rule(name=st.sampled_from(NAMES), batch=st.sampled_from(BATCHES), images=st.integers(1, 5))
    def charge(self, name: str, batch: str, images: int) -> None:
        if (known := self.model.get(name)) is None:
            return
        is_replay = batch in known.bought
        if refused := known.buy(batch, images):
            with pytest.raises(Refusal) as refusal:
                charge(self.ledger, known.key, batch, images)
            assert refusal.value.code is refused
            if refused is ErrorCode.BUDGET_EXHAUSTED:
                found = {name: refusal.value.members[name] for name in ("granted", "spent", "asked")}
                assert found == {"granted": known.granted, "spent": known.spent, "asked": images}
            return
        answered = charge(self.ledger, known.key, batch, images, value=images / 8)
        earlier = known.told.setdefault(batch, answered)
        assert answered.is_replay is is_replay
        assert answered.event.images == known.bought[batch]
        assert (answered.signed, answered.request_id) == (earlier.signed, earlier.request_id)
        assert answered.disclosed.tobytes() == earlier.disclosed.tobytes()

    @precondition(lambda self: any(known.bought for known in self.model.values()))
    @rule(data=st.data())
    def ask_another_question_under_a_used_key(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from([known for known in self.model.values() if known.bought]))
        batch = data.draw(st.sampled_from(sorted(known.bought)))
        other = question(known.key, batch, about="other images")
        with pytest.raises(Refusal) as found:
            self.ledger.find_answer(other)
        with pytest.raises(Refusal) as charged:
            self.ledger.charge(other, computed(1), request_id="x")
        assert found.value.code is charged.value.code is ErrorCode.IDEMPOTENCY_KEY_REUSED

    @precondition(lambda self: self.model)
    @rule(
        name=st.sampled_from(NAMES),
        batch=st.sampled_from(BATCHES),
        images=st.integers(1, 5),
        moment=st.sampled_from([*map(str, range(1, STATEMENTS_MAX)), "commit", "after"]),
    )
    def crash(self, name: str, batch: str, images: int, moment: str) -> None:
        """Another process charges and is killed on its way: all of it happened, or nothing."""
        if (known := self.model.get(name)) is None:
            return
        log = self.folder / "crash.log"
        env = {"TEACHER_SIGNING_KEY": str(self.place.signing_key)}
        code = self.forks.start("-", self.place.url, name, batch, images, moment, log=log, env=env).wait()
        is_refused = batch not in known.bought and known.refuses(images) is not None
        assert code in (-signal.SIGKILL, int(is_refused)), log.read_text()
        if code == 0 or moment == "after":
            known.buy(batch, images)

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.open_again()

    @invariant()
    def keys_are_as_in_the_model(self) -> None:
        counted = require_sound(self.database)
        assert set(counted) == set(self.model)
        for key in list_keys(self.database):
            known = self.model[key.name]
            assert (key.granted, key.spent) == (known.granted, known.spent)
            assert (key.status == "revoked") is known.is_revoked
            assert counted[key.name].images == known.bought
            events = counted[key.name].events
            kinds = [event.kind for event in events]
            assert (kinds.count("grant"), kinds.count("revoke")) == (known.grants, known.is_revoked)
            for event, following in pairwise(events):
                assert event.kind != "refuse" or (following.kind, following.detail) != ("refuse", event.detail)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.database)

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            shutil.rmtree(self.folder)


def copied(template: LedgerPlace, folder: Path) -> LedgerPlace:
    """A ledger like the template, which was made once."""
    if template.postgresql is None:
        place = sqlite_place(folder)
        shutil.copy(template.url.removeprefix("sqlite:///"), place.url.removeprefix("sqlite:///"))
        shutil.copy(template.signing_key, place.signing_key)
        return place
    return replace(template, url=template.postgresql.new_database(template=name_of(template.url)))


@pytest.fixture(scope="session")
def crashing_forks() -> ForkServer:
    return ForkServer("tests.teacher_server.ledger.crashing:main")


def test_the_ledger_agrees_with_a_model(
    ledger_kind: str, tmp_path: Path, request: pytest.FixtureRequest, crashing_forks: ForkServer
) -> None:
    if ledger_kind == "postgresql":
        template = postgresql_place(tmp_path, request.getfixturevalue("postgresql"))
    else:
        template = sqlite_place(tmp_path)
    with template.open(create=True):
        pass
    machine = type(
        "Machine",
        (LedgerMachine,),
        {"template": template, "forks": crashing_forks, "shares_commits": "shared" in ledger_kind},
    )
    few = settings(
        max_examples=20, stateful_step_count=25, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=few)
