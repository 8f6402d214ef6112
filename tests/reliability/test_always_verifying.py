"""A live server whose ledger is tampered with behind its back; a live server whose signing key is exchanged."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.wire.contracts import LabelsAnswer
from shared.wire.images import NPY_MEDIA_TYPE, encode_npy
from teacher_server.ledger.audit.auditing import audit_ledger
from teacher_server.ledger.keys.issuing import create_key, list_keys
from teacher_server.ledger.ledger import Ledger
from tests.ledger_places import LedgerPlace
from tests.reliability.processes import ForkServer, Server, wait_until
from tests.teacher_server.ledger.tampering import execute
from tests.teacher_server.support import LABELS, PROBABILITIES, history, numbered_images


@pytest.fixture
def server(place: LedgerPlace, teacher_forks: ForkServer, tmp_path: Path) -> Iterator[Server]:
    running = Server(teacher_forks, tmp_path, **place.env, TEACHER_VERIFY_INTERVAL_S="0.1", TEACHER_ANSWER_KEPT_S="2")
    yield running
    running.stop()


def ask(server: Server, secret: str, number: int, name: str) -> httpx2.Response:
    return httpx2.post(
        server.url + LABELS,
        content=encode_npy(numbered_images([number])),
        headers={"Authorization": f"Bearer {secret}", "Content-Type": NPY_MEDIA_TYPE, "Idempotency-Key": name},
        timeout=30,
    )


def status(server: Server, path: str) -> tuple[int, Any]:
    response = httpx2.get(server.url + path, timeout=30)
    return response.status_code, response.json().get("code")


INCONSISTENT = (503, "ledger_inconsistent")


def test_tampering_with_a_live_ledger_is_seen_and_mending_too(place: LedgerPlace, server: Server) -> None:
    yves, bob = place.new_secret("yves", budget=50), place.new_secret("bob", budget=50)
    server.start()
    assert ask(server, yves, 1, "a").status_code == ask(server, bob, 1, "b").status_code == 200
    wait_until(lambda: status(server, "/readyz") == (200, None))

    execute(place, "UPDATE keys SET granted = 1000 WHERE name = 'yves'")
    wait_until(lambda: status(server, "/readyz") == INCONSISTENT)
    assert status(server, "/healthz") == (200, None)
    refused = ask(server, yves, 2, "a2")
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (*INCONSISTENT, False)
    assert ask(server, yves, 1, "a").json()["code"] == "ledger_inconsistent", "not even what was sold before"
    assert ask(server, bob, 2, "b2").status_code == 200
    assert "ledger inconsistent, key yves: the counter says 1000 granted, the events add up to 50" in server.text()
    assert "yves" not in httpx2.get(server.url + "/readyz").text, "strangers are told no names"

    execute(place, "UPDATE keys SET granted = 50 WHERE name = 'yves'")
    wait_until(lambda: status(server, "/readyz") == (200, None))
    assert ask(server, yves, 2, "a2").status_code == 200
    with place.open() as database:
        report = audit_ledger(database)
        assert report.faults == []
        assert [walk.spent for walk in report.walks] == [2, 2], "nothing was charged for what was refused"


def test_an_edited_event_is_named_with_its_number(place: LedgerPlace, server: Server) -> None:
    ada = place.new_secret("ada", budget=50)
    server.start()
    for number in range(5):
        assert ask(server, ada, number, f"a{number}").status_code == 200
    execute(place, "UPDATE events SET images = 5 WHERE sequence = 4")
    wait_until(lambda: status(server, "/readyz") == INCONSISTENT)
    assert "key ada, event 4: was edited: its content does not have its hash" in server.text()


def test_answers_and_keys_expire_by_themselves(place: LedgerPlace, server: Server) -> None:
    secret = place.new_secret("ada", budget=50)
    with place.open() as database:
        soon = time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime(time.time() + 1.5))
        create_key(database, name="bob", budget=5, disclosure=PROBABILITIES, expires_at=soon)
    server.start()
    first = ask(server, secret, 7, "a")
    wait_until(lambda: execute(place, "SELECT sum(body_bytes) FROM answers") == [(0,)])
    again = ask(server, secret, 7, "a")
    assert again.headers["Idempotency-Recomputed"] == "true" or again.status_code == 410
    assert first.json()["event"] == again.json().get("event", first.json()["event"])
    with place.open() as database:
        bob = list_keys(database)[1]
        wait_until(lambda: [event.kind for event in history(database, bob)] == ["create", "expire"])
        assert audit_ledger(database).faults == []


def test_a_signing_key_exchanged_while_a_server_sells(place: LedgerPlace, server: Server) -> None:
    secret = place.new_secret("ada", budget=10_000)
    server.start()
    before = LabelsAnswer.model_validate(ask(server, secret, 0, "before").json()).receipt
    assert before is not None
    signers = [before.signing_key]  # however soon the exchange is over
    command = [str(Path(sys.executable).with_name("teacher")), "ledger", "rotate-signing-key", "--json"]
    rotation = subprocess.Popen(command, env=place.env | {"PATH": ""}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while rotation.poll() is None:
        response = ask(server, secret, len(signers), f"a{len(signers)}")
        assert response.status_code == 200, response.text
        receipt = LabelsAnswer.model_validate(response.json()).receipt
        assert receipt is not None
        signers.append(receipt.signing_key)
    out, error = rotation.communicate()
    assert rotation.returncode == 0, error
    new = json.loads(out)["signing_key"]
    last = LabelsAnswer.model_validate(ask(server, secret, 1, "last").json()).receipt
    assert last is not None
    assert last.signing_key == new
    assert signers[0] != new
    with place.open() as database:
        assert [key.fingerprint for key in Ledger(database).signing_keys().keys] == [signers[0], new]
        assert audit_ledger(database, pin=signers[0]).faults == []


def test_a_server_without_its_signing_key_sells_nothing_until_it_is_put_back(
    place: LedgerPlace, server: Server
) -> None:
    secret = place.new_secret("ada", budget=50)
    away = place.signing_key.with_suffix(".away")
    place.signing_key.rename(away)
    server.start()
    assert status(server, "/readyz") == (503, "ledger_unavailable")
    refused = ask(server, secret, 1, "a")
    assert (refused.status_code, refused.json()["code"], refused.json()["charged"]) == (
        503,
        "ledger_unavailable",
        "no",
    )
    assert "Put it back" in server.text()
    away.rename(place.signing_key)
    assert status(server, "/readyz") == (200, None)
    assert ask(server, secret, 1, "a").status_code == 200
    with place.open() as database:
        assert audit_ledger(database).faults == []
