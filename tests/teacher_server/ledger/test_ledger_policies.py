"""Policies that change, secrets that overlap, keys that expire: each told in the key's chain, once."""

import json
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import select

from shared.wire.contracts import Disclosure
from shared.wire.error_codes import ErrorCode
from teacher_server.errors import OperatorError, Refusal
from teacher_server.ledger.clock import as_text
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.authentication import authenticate
from teacher_server.ledger.keys.expiry import note_expired_keys
from teacher_server.ledger.keys.issuing import KeyLimits, create_key, find_key, list_keys, parse_expiry, revoke_key
from teacher_server.ledger.keys.key_rotation import old_secret_valid_until, rotate_secret
from teacher_server.ledger.keys.policies import change_policy
from teacher_server.ledger.ledger import Ledger
from teacher_server.ledger.tables import retiring_secrets
from tests.teacher_server.clocks import Clock
from tests.teacher_server.ledger.soundness import require_sound
from tests.teacher_server.ledger.support import charge
from tests.teacher_server.support import PROBABILITIES, history, new_key

DAY = timedelta(days=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def issue(database: Database, *, expires_at: str | None = None) -> str:
    return create_key(database, name="ada", budget=10, disclosure=PROBABILITIES, expires_at=expires_at)[1]


def kinds(database: Database) -> Sequence[str]:
    return [event.kind for event in history(database, find_key(database, "ada"))]


def refused(database: Database, secret: str) -> str:
    with pytest.raises(Refusal) as refusal:
        authenticate(database, secret)
    assert refusal.value.code is ErrorCode.UNAUTHENTICATED
    return refusal.value.detail


# --- policies -----------------------------------------------------------------------------------------------------


def test_a_change_of_policy_is_an_event_that_tells_old_and_new(database: Database) -> None:
    issue(database)
    later = "2999-12-31T00:00:00.000000+00:00"
    changed = change_policy(
        database, name="ada", changes={"images_per_day": 5, "disclosure": "label", "expires_at": later}
    )
    assert (changed.limits, changed.disclosure, changed.expires_at) == (KeyLimits(5), Disclosure("label"), later)
    event = history(database, changed)[-1]
    assert (event.kind, event.disclosure, event.images) == ("policy", "label", 0)
    assert event.detail == (
        '{"disclosure":{"new":"label","old":"probabilities"},'
        '"expires_at":{"new":"2999-12-31T00:00:00.000000+00:00","old":"none"},'
        '"images_per_day":{"new":5,"old":"none"}}'
    )
    changed = change_policy(database, name="ada", changes={"images_per_day": None, "images_per_second": 7})
    assert json.loads(history(database, changed)[-1].detail) == {
        "images_per_day": {"new": "none", "old": 5},
        "images_per_second": {"new": 7, "old": "none"},
    }
    require_sound(database)


def test_what_is_so_already_is_no_event(database: Database) -> None:
    issue(database)
    change_policy(database, name="ada", changes={"disclosure": "probabilities", "images_per_day": None})
    change_policy(database, name="ada", changes={})
    assert kinds(database) == ["create"]


def test_policies_that_cannot_be(database: Database) -> None:
    issue(database)
    for changes, named in (
        ({"images_per_day": 0}, "images_per_day is 0"),
        ({"images_per_second": 2**60}, "images_per_second is 1152921504606846976"),
        ({"granted": 10**6}, "granted is not part"),
    ):
        with pytest.raises(OperatorError, match=named):
            change_policy(database, name="ada", changes=changes)
    with pytest.raises(OperatorError, match="no such key"):
        change_policy(database, name="nobody", changes={"images_per_day": 1})
    revoke_key(database, name="ada")
    with pytest.raises(OperatorError, match="revoked"):
        change_policy(database, name="ada", changes={"images_per_day": 1})
    assert find_key(database, "ada").limits == KeyLimits()
    assert kinds(database) == ["create", "revoke"]


def test_an_answer_worked_out_under_another_disclosure_is_not_sold(database: Database) -> None:
    key, ledger = new_key(database), Ledger(database)
    change_policy(database, name="ada", changes={"disclosure": "label"})
    with pytest.raises(Refusal, match="disclosure changed") as refusal:
        charge(ledger, key, "a", 1)
    assert refusal.value.members == {"charged": "no"}
    charge(ledger, find_key(database, "ada"), "a", 1)
    require_sound(database)


def test_a_change_of_policy_lets_a_refusal_be_told_again(database: Database) -> None:
    key, ledger = new_key(database, budget=3), Ledger(database)
    for _ in range(2):
        for _ in range(3):
            with pytest.raises(Refusal):
                charge(ledger, key, "much", 4)
        change_policy(database, name="ada", changes={"images_per_day": len(kinds(database)) + 4})
    assert kinds(database) == ["create", "refuse", "policy", "refuse", "policy"]


# --- rotation -----------------------------------------------------------------------------------------------------


def test_two_secrets_open_a_key_for_a_while(database: Database, clock: Clock) -> None:
    old = issue(database)
    key, new, until = rotate_secret(database, name="ada", overlap=DAY)
    assert new != old
    assert until == as_text(clock.now + DAY) == old_secret_valid_until(database, key)
    assert authenticate(database, old) == authenticate(database, new) == key
    event = history(database, key)[-1]
    assert (event.kind, event.detail) == ("rotate", f'{{"old_secret_valid_until":"{until}"}}')
    clock.forward(DAY.total_seconds() - 0.000001)
    assert authenticate(database, old) == key
    clock.forward(0.000001)
    assert refused(database, old) == refused(database, "tk-0123456789ab-" + "B" * 43), "a stranger like any other"
    assert authenticate(database, new) == key
    assert old_secret_valid_until(database, key) is None
    assert kinds(database) == ["create", "rotate"]
    require_sound(database)


def test_without_overlap_the_old_secret_is_gone_at_once(database: Database) -> None:
    first = issue(database)
    _, second, _ = rotate_secret(database, name="ada", overlap=DAY)
    _, third, until = rotate_secret(database, name="ada", overlap=timedelta(0))
    assert until is None
    for secret in (first, second):
        refused(database, secret)
    assert authenticate(database, third).name == "ada"
    with database.reading() as connection:
        assert connection.execute(select(retiring_secrets)).all() == []
    assert '"now"' in history(database, find_key(database, "ada"))[-1].detail


def test_at_most_two_secrets_are_valid(database: Database) -> None:
    first = issue(database)
    _, second, _ = rotate_secret(database, name="ada", overlap=DAY)
    _, third, _ = rotate_secret(database, name="ada", overlap=DAY)
    refused(database, first)
    assert authenticate(database, second) == authenticate(database, third)


def test_halves_of_two_secrets_of_one_key_open_nothing(database: Database) -> None:
    old = issue(database)
    _, new, _ = rotate_secret(database, name="ada", overlap=DAY)
    refused(database, f"{old[:15]}-{new[16:]}")
    refused(database, f"{new[:15]}-{old[16:]}")


def test_one_key_s_rotation_is_none_of_another_s_business(database: Database) -> None:
    ada = issue(database)
    bob, secret = create_key(database, name="bob", budget=1, disclosure=PROBABILITIES, expires_at=None)
    rotate_secret(database, name="ada", overlap=DAY)
    rotate_secret(database, name="bob", overlap=DAY)
    assert authenticate(database, secret) == bob
    assert authenticate(database, ada).name == "ada"


def test_a_revoked_key_is_closed_to_both_secrets(database: Database) -> None:
    old = issue(database)
    _, new, _ = rotate_secret(database, name="ada", overlap=DAY)
    revoke_key(database, name="ada")
    assert "revoked" in refused(database, old)
    assert "revoked" in refused(database, new)
    with pytest.raises(OperatorError, match="revoked"):
        rotate_secret(database, name="ada", overlap=DAY)
    assert kinds(database) == ["create", "rotate", "revoke", "refuse"]


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=367)])
def test_overlaps_have_bounds(database: Database, overlap: timedelta) -> None:
    secret = issue(database)
    with pytest.raises(OperatorError, match="overlap is"):
        rotate_secret(database, name="ada", overlap=overlap)
    assert authenticate(database, secret).name == "ada"


# --- expiry -------------------------------------------------------------------------------------------------------


def test_an_expiry_is_told_when_it_is_first_noticed(database: Database, clock: Clock) -> None:
    expires_at = as_text(clock.now + DAY)
    secret = issue(database, expires_at=expires_at)
    assert note_expired_keys(database) == []
    clock.forward(days=1)
    for _ in range(3):
        assert "expired" in refused(database, secret)
    assert note_expired_keys(database) == []
    assert kinds(database) == ["create", "expire", "refuse"]
    assert history(database, find_key(database, "ada"))[1].detail == expires_at
    require_sound(database)


def test_a_clock_that_is_set_back_opens_no_key_whose_expiry_was_told(database: Database, clock: Clock) -> None:
    secret = issue(database, expires_at=as_text(clock.now + DAY))
    clock.forward(days=1)
    assert "expired" in refused(database, secret)
    clock.forward(days=-1)
    assert "expired" in refused(database, secret)
    assert kinds(database) == ["create", "expire", "refuse"]
    require_sound(database)


def test_a_look_at_all_keys_notes_each_expiry_once(database: Database, clock: Clock) -> None:
    secret = issue(database, expires_at=as_text(clock.now + DAY))
    for name, days in (("bob", 1), ("eve", 2)):
        expires_at = as_text(clock.now + days * DAY)
        create_key(database, name=name, budget=1, disclosure=PROBABILITIES, expires_at=expires_at)
    revoke_key(database, name="bob")
    clock.forward(days=1)
    assert note_expired_keys(database) == ["ada"], "a revoked key had ended before"
    assert note_expired_keys(database) == []
    assert "expired" in refused(database, secret)
    assert kinds(database) == ["create", "expire", "refuse"]
    clock.forward(days=1)
    assert note_expired_keys(database) == ["eve"]


def test_a_later_expiry_opens_the_key_and_can_be_told_again(database: Database, clock: Clock) -> None:
    secret = issue(database, expires_at=as_text(clock.now + DAY))
    clock.forward(days=1)
    refused(database, secret)
    change_policy(database, name="ada", changes={"expires_at": parse_expiry(as_text(clock.now + DAY))})
    assert authenticate(database, secret).status == "active"
    clock.forward(days=1)
    refused(database, secret)
    refused(database, secret)
    assert kinds(database) == ["create", "expire", "refuse", "policy", "expire", "refuse"]
    change_policy(database, name="ada", changes={"expires_at": None})
    clock.forward(days=10_000)
    assert authenticate(database, secret).status == "active"
    require_sound(database)


def test_a_key_that_expires_while_it_is_answered_is_not_charged(database: Database, clock: Clock) -> None:
    secret = issue(database, expires_at=as_text(clock.now + DAY))
    key = authenticate(database, secret)
    clock.forward(days=1)
    with pytest.raises(Refusal) as refusal:
        charge(Ledger(database), key, "late", 1)
    assert refusal.value.code is ErrorCode.UNAUTHENTICATED
    assert kinds(database) == ["create", "expire", "refuse"]
    assert list_keys(database)[0].spent == 0
    require_sound(database)


def test_a_refusal_that_is_no_longer_true_when_it_is_told_is_not_told(database: Database, clock: Clock) -> None:
    secret = issue(database, expires_at=as_text(clock.now + DAY))
    key = authenticate(database, secret)
    clock.forward(days=1)
    refusal = Refusal(ErrorCode.UNAUTHENTICATED, "as found a moment ago")
    change_policy(database, name="ada", changes={"expires_at": None})
    Ledger(database).note_refusal(key, refusal, images=0, teacher="")
    assert kinds(database) == ["create", "policy"]
