"""`distill audit`, signing keys pinned and receipts, against the real application behind a real socket."""

import json
import os
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill_client.cli import KEY_VARIABLE
from distill_client.errors import (
    AuditMismatch,
    ConfigError,
    ReceiptFault,
    RunStoreError,
)
from distill_client.teachers.manners.asking import Manners
from distill_client.teachers.native.answers import read_answer
from distill_client.teachers.native.teacher import connect
from shared.wire import contracts
from teacher_server.ledger.audit.audit_lines import write_export
from tests.distill_client.cli.support import Finished, Served, distill, kinds_of_events, one_object, write_config


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
    assert {each["kind"] for each in json.loads(cut.stdout)["differences"]} == {"export"}
    assert not (finished.path / "evidence").exists(), "a file that was cut off on its way is nothing against anybody"

    last = json.loads(lines[-3])["event"]
    hidden = json.loads(lines[0])["export"] | {"events": last["sequence"], "last_hash": last["hash"]}
    log.write_text("".join([json.dumps({"export": hidden}) + "\n", *lines[1:-2]]))
    cut = distill("audit", finished.path, "--log", log, "--json")
    assert {each["kind"] for each in json.loads(cut.stdout)["differences"]} == {"log", "evidence"}
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
