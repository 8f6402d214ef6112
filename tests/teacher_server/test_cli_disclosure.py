"""`teacher keys create`, `set`, `show` and `list` on what a key may see."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.wire.disclosure import Disclosure
from shared.wire.receipts import disclosure_digest
from teacher_server.cli import app
from teacher_server.errors import OperatorError
from teacher_server.ledger.audit.auditing import audit_ledger
from teacher_server.ledger.keys.issuing import create_key, find_key, list_keys
from teacher_server.ledger.keys.policies import DisclosureChange, change_policy
from tests.ledger_places import LedgerPlace
from tests.teacher_server.support import history, new_key

runner = CliRunner()


@pytest.fixture
def ledger(place: LedgerPlace, monkeypatch: pytest.MonkeyPatch) -> LedgerPlace:
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    return place


def run(*arguments: str) -> str:
    result = runner.invoke(app, ("keys", *arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def mistake(*arguments: str) -> str:
    result = runner.invoke(app, ("keys", *arguments))
    assert isinstance(result.exception, OperatorError), (result.output, result.exception)
    return str(result.exception)


CREATED: list[tuple[list[str], str]] = [
    ([], "probabilities"),
    (["--decimals", "2"], "probabilities;decimals=2"),
    (["--temperature", "2.0"], "probabilities;temperature=2;decimals=6"),
    (["--temperature", "1"], "probabilities"),
    (["--noise", "0.10", "--decimals", "3"], "probabilities;noise=0.1;decimals=3"),
    (["--disclosure", "top-k:3", "--temperature", "0.5", "--noise", "1", "--decimals", "2"],
     "top-k:3;temperature=0.5;noise=1;decimals=2"),
    (["--disclosure", "top-k:3;temperature=2;noise=0.1;decimals=2"], "top-k:3;temperature=2;noise=0.1;decimals=2"),
    (["--disclosure", "top-k:3;temperature=2;noise=0.1;decimals=2", "--noise", "none"],
     "top-k:3;temperature=2;decimals=2"),
    (["--disclosure", "label", "--noise", "0.2"], "label;noise=0.2"),
    (["--decimals", "none", "--noise", "none", "--temperature", "none"], "probabilities"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "policy"), CREATED)
def test_a_key_is_made_with_a_policy_that_is_shown_wherever_it_is(
    ledger: LedgerPlace, options: list[str], policy: str
) -> None:
    made = json.loads(run("create", "--name", "ada", "--budget", "9", *options, "--json"))
    shown = json.loads(run("show", "--name", "ada", "--json"))
    listed = json.loads(run("list", "--json"))["keys"][0]
    assert made["disclosure"] == shown["disclosure"] == listed["disclosure"] == policy
    assert re.search(rf"^disclosure +{re.escape(policy)}$", run("show", "--name", "ada"), re.MULTILINE)
    with ledger.open() as database:
        event = history(database, find_key(database, "ada"))[0]
        assert (event.disclosure, event.disclosure_digest) == (policy, disclosure_digest(policy))


SET: list[tuple[str, list[str], str]] = [
    ("probabilities", ["--noise", "0.5"], "probabilities;noise=0.5;decimals=6"),
    ("probabilities;noise=0.5;decimals=6", ["--decimals", "2"], "probabilities;noise=0.5;decimals=2"),
    ("probabilities;noise=0.5;decimals=2", ["--noise", "none"], "probabilities;decimals=2"),
    ("probabilities;noise=0.5;decimals=2", ["--noise", "none", "--decimals", "none"], "probabilities"),
    ("probabilities;temperature=2;decimals=2", ["--temperature", "3.5"], "probabilities;temperature=3.5;decimals=2"),
    # a kind alone leaves the rest as it is; what a label has not is gone, and its noise stays
    ("probabilities;temperature=2;noise=0.5;decimals=2", ["--disclosure", "top-k:2"],
     "top-k:2;temperature=2;noise=0.5;decimals=2"),
    ("probabilities;temperature=2;noise=0.5;decimals=2", ["--disclosure", "label"], "label;noise=0.5"),
    ("label;noise=0.5", ["--disclosure", "probabilities"], "probabilities;noise=0.5;decimals=6"),
    ("label;noise=0.5", ["--disclosure", "probabilities", "--noise", "none"], "probabilities"),
    # a whole policy replaces all of it
    ("label;noise=0.5", ["--disclosure", "top-k:2;decimals=3"], "top-k:2;decimals=3"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "options", "after"), SET)
def test_a_policy_is_changed_part_by_part_and_told_old_and_new(
    ledger: LedgerPlace, before: str, options: list[str], after: str
) -> None:
    with ledger.open(create=True) as database:
        create_key(database, name="ada", budget=9, disclosure=Disclosure.parse(before), expires_at=None)
        assert f"disclosure {after}," in run("set", "--name", "ada", *options)
        event = history(database, find_key(database, "ada"))[-1]
        assert (event.kind, event.disclosure, event.disclosure_digest) == ("policy", after, disclosure_digest(after))
        assert json.loads(event.detail) == {"disclosure": {"new": after, "old": before}}
        run("set", "--name", "ada", *options)
        assert len(history(database, find_key(database, "ada"))) == 2, "the same again is no change"
        assert audit_ledger(database).faults == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--decimals", "0"], "decimals is 0; allowed are 1 to 6"),
        (["--decimals", "7"], "decimals is 7; allowed are 1 to 6"),
        (["--decimals", "two"], "decimals is 'two'; allowed are 1 to 6, and none"),
        (["--decimals", "٣"], "decimals is '٣'; allowed are 1 to 6, and none"),
        (["--decimals", ""], "decimals is ''; allowed are 1 to 6, and none"),
        (["--temperature", "0"], "temperature is 0; allowed are 0.1 to 100 with at most two decimals"),
        (["--temperature", "0.125"], "temperature is 0.125; allowed are 0.1 to 100 with at most two decimals"),
        (
            ["--temperature", "hot"],
            "temperature is 'hot'; allowed are 0.1 to 100 with at most two decimals, and none",
        ),
        (["--temperature", "-2"], "temperature is '-2'; allowed are 0.1"),
        (["--temperature", "1e1"], "temperature is '1e1'; allowed are 0.1"),
        (["--temperature", "nan"], "temperature is 'nan'; allowed are 0.1"),
        (["--temperature", ""], "temperature is ''; allowed are 0.1"),
        (["--noise", "0.3"], "noise is 0.3; allowed are 0.05, 0.1, 0.2, 0.5, 1, 2, 5"),
        (["--noise", "inf"], "noise is 'inf'; allowed are 0.05, 0.1, 0.2, 0.5, 1, 2, 5, and none"),
        (
            ["--noise", "0.1", "--decimals", "none"],
            "decimals is none; with a temperature or noise allowed are 1 to 6",
        ),
        (["--disclosure", "label", "--decimals", "2"], "decimals is 2, but a label has none"),
        (["--disclosure", "label", "--temperature", "2"], "temperature is 2, but no temperature changes a label"),
        (["--disclosure", "top-k:3;decimals=9"], "disclosure is 'top-k:3;decimals=9'; decimals is 9"),
        (["--disclosure", ""], "disclosure is ''; allowed are probabilities"),
    ],
)
def test_mistakes_are_named_and_change_nothing(ledger: LedgerPlace, options: list[str], says: str) -> None:
    with ledger.open(create=True) as database:
        key = new_key(database)
        assert says in mistake("set", "--name", "ada", *options)
        assert says in mistake("create", "--name", "bob", "--budget", "5", *options)
        assert list_keys(database) == [key]
        assert len(history(database, key)) == 1


def test_two_owners_at_once_each_change_what_they_name(place: LedgerPlace) -> None:
    """Both begin with the policy as it is under the key's lock, so neither undoes the other's part."""
    with place.open(create=True) as database:
        for turn in range(5):
            name, barrier = f"key-{turn}", threading.Barrier(3)
            create_key(database, name=name, budget=1, disclosure=Disclosure("probabilities"), expires_at=None)

            def change(part: dict[str, Any], name: str = name, barrier: threading.Barrier = barrier) -> None:
                with place.open() as own:
                    barrier.wait(timeout=30)
                    change_policy(own, name=name, changes={}, disclosure=DisclosureChange(**part))

            with ThreadPoolExecutor(3) as pool:
                list(pool.map(change, [{"noise": "0.5"}, {"temperature": "2"}, {"decimals": "3"}]))
            assert str(find_key(database, name).disclosure) == "probabilities;temperature=2;noise=0.5;decimals=3"
