"""The ledger against a model of a few lines, through every order of actions that hypothesis thinks of."""

import shutil
import tempfile
from dataclasses import dataclass, field
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

from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.answers import Answered
from teacher_server.ledger.keys import Key, grant_images, list_keys, revoke_key
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.opening import open_database
from tests.teacher_server.ledger.support import charge, computed, question
from tests.teacher_server.support import history, new_key, require_sound

NAMES = ("ada", "bob")
BATCHES = ("a", "b", "c", "d", "e")


@dataclass
class ModelKey:
    key: Key
    granted: int
    spent: int = 0
    is_revoked: bool = False
    events: int = 1
    answers: dict[str, Answered] = field(default_factory=dict)


class LedgerMachine(RuleBasedStateMachine):
    """Two keys at most; five idempotency keys, so that they meet again."""

    template: Path

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        self.url = f"sqlite:///{shutil.copy(self.template, self.folder)}"
        self.database = open_database(self.url, create=True)
        self.model: dict[str, ModelKey] = {}

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.database)

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
            known.events += 1
            assert grant_images(self.database, name=name, images=images).granted == known.granted

    @precondition(lambda self: self.model)
    @rule(name=st.sampled_from(NAMES), seldom=st.integers(0, 3))
    def revoke(self, name: str, seldom: int) -> None:
        known = self.model.get(name)
        if known and seldom == 0:
            revoke_key(self.database, name=name)
            known.events += not known.is_revoked
            known.is_revoked = True

    @precondition(lambda self: self.model)
    @rule(name=st.sampled_from(NAMES), batch=st.sampled_from(BATCHES), images=st.integers(1, 5))
    def charge(self, name: str, batch: str, images: int) -> None:
        known = self.model.get(name)
        if known is None:
            return
        earlier = known.answers.get(batch)
        if earlier is None and (known.is_revoked or known.spent + images > known.granted):
            with pytest.raises(Refusal) as refusal:
                charge(self.ledger, known.key, batch, images)
            if known.is_revoked:
                assert refusal.value.code is ErrorCode.UNAUTHENTICATED
            else:
                assert refusal.value.members == {"granted": known.granted, "spent": known.spent, "asked": images}
            return
        answered = charge(self.ledger, known.key, batch, images, value=images / 8)
        if earlier:
            assert answered.is_replay
            assert (answered.event, answered.request_id) == (earlier.event, earlier.request_id)
            assert answered.disclosed.tobytes() == earlier.disclosed.tobytes()
        else:
            known.spent += images
            known.events += 1
            known.answers[batch] = answered
            assert not answered.is_replay
            assert answered.remaining == known.granted - known.spent >= 0

    @precondition(lambda self: any(known.answers for known in self.model.values()))
    @rule(data=st.data())
    def ask_another_question_under_a_used_key(self, data: st.DataObject) -> None:
        known = data.draw(st.sampled_from([known for known in self.model.values() if known.answers]))
        batch = data.draw(st.sampled_from(sorted(known.answers)))
        other = question(known.key, batch, about="other images")
        with pytest.raises(Refusal) as found:
            self.ledger.find_answer(other)
        with pytest.raises(Refusal) as charged:
            self.ledger.charge(other, computed(1), request_id="x")
        assert found.value.code is charged.value.code is ErrorCode.IDEMPOTENCY_KEY_REUSED

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.database = open_database(self.url, create=True)

    @invariant()
    def keys_are_as_in_the_model(self) -> None:
        for key in list_keys(self.database):
            known = self.model[key.name]
            assert (key.granted, key.spent) == (known.granted, known.spent)
            assert (key.status == "revoked") is known.is_revoked
            assert len(history(self.database, key)) == known.events
        require_sound(self.database)

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            shutil.rmtree(self.folder)


def test_the_ledger_agrees_with_a_model(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    open_database(f"sqlite:///{template}", create=True).close()
    machine = type("Machine", (LedgerMachine,), {"template": template})
    few = settings(
        max_examples=25, stateful_step_count=25, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=few)
