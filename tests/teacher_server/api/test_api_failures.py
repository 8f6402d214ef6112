"""When the server is busy, broken or without its ledger: one problem document, nothing charged, and then it works."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest

from teacher_server.ledger.keys.issuing import revoke_key
from tests.teacher_server.api.raw import never, npy_headers, raw_call
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.support import (
    LABELS,
    Holder,
    World,
    file_of,
    numbered_images,
    numbers_of,
    require_problem,
    require_sound,
)


@contextmanager
def being_answered(world: World, holder: Holder, numbers: list[int], **headers: str) -> Iterator[Future[Any]]:
    """A request that is inside the classifier until this block ends."""
    while world.classifier.waiting.acquire(blocking=False):
        pass
    world.classifier.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(holder.ask, numbers, **headers)
        assert world.classifier.waiting.acquire(timeout=30)
        try:
            yield future
        finally:
            world.classifier.may_go_on.set()


def test_more_requests_than_places(make_world: MakeWorld) -> None:
    world = make_world(requests_in_flight_max=1)
    ada, bob = world.holder("ada"), world.holder("bob")
    with being_answered(world, ada, [1]) as first:
        answer = raw_call(world, npy_headers(bob.secret), never())
        assert require_problem(answer, 503, "overloaded")["retryable"] is True
        assert answer.headers["connection"] == "close"
        assert bob.get("/v1/usage").status_code == 200, "only label requests take places"
        assert bob.get("/readyz").status_code == 200
    assert first.result().status_code == 200
    assert bob.buy([2]).charged == 1


def test_images_in_flight_make_others_wait_and_are_never_called_spent(world: World) -> None:
    ada, bob = world.holder("ada", budget=10), world.holder("bob", budget=10)
    with being_answered(world, ada, [1] * 8) as first:
        # what is in flight may fail yet, so it does not count as spent: 503, not 403
        problem = require_problem(ada.ask([2] * 3), 503, "overloaded")
        assert problem["retryable"] is True
        # this cannot be answered whatever becomes of the others
        problem = require_problem(ada.ask([3] * 11), 403, "budget_exhausted")
        assert (problem["granted"], problem["spent"], problem["asked"]) == (10, 0, 11)
        assert ada.spent() == bob.spent() == 0
    assert first.result().json()["spent"] == 8
    problem = require_problem(ada.ask([2] * 3), 403, "budget_exhausted")
    assert (problem["granted"], problem["spent"], problem["asked"]) == (10, 8, 3)
    assert ada.buy([4, 5]).remaining == 0
    require_sound(world.database)


def test_other_keys_and_small_requests_go_on_beside_large_ones(world: World) -> None:
    ada, bob = world.holder("ada", budget=10), world.holder("bob", budget=10)
    with ThreadPoolExecutor(2) as pool:
        with being_answered(world, ada, [1] * 8) as first:
            beside = [pool.submit(ada.ask, [2, 3]), pool.submit(bob.ask, [4] * 10)]
            assert all(world.classifier.waiting.acquire(timeout=30) for _ in beside)
        assert [response.result().status_code for response in (first, *beside)] == [200, 200, 200]
        assert numbers_of(beside[0].result().json()["probabilities"]) == [2, 3]
    require_sound(world.database)


def test_a_classifier_that_fails_is_our_fault_and_costs_nothing(world: World) -> None:
    holder = world.holder()
    world.classifier.fault = RuntimeError("layer conv1 of weights.safetensors failed")
    response = holder.ask([1, 2], Idempotency_Key="mine")
    problem = require_problem(response, 500, "internal")
    assert problem["retryable"] is True
    for inner in ("conv1", "weights", "RuntimeError", "File "):
        assert inner not in response.text
    assert holder.spent() == 0
    world.classifier.fault = None
    assert holder.buy([1, 2], Idempotency_Key="mine").spent == 2
    require_sound(world.database)


def test_images_of_a_failed_request_are_no_longer_in_flight(world: World) -> None:
    holder = world.holder(budget=2)
    world.classifier.fault = RuntimeError("broken")
    for _ in range(3):
        require_problem(holder.ask([1, 2]), 500, "internal")
    world.classifier.fault = None
    assert holder.buy([1, 2]).remaining == 0


def test_a_key_revoked_while_its_request_is_answered(world: World) -> None:
    holder = world.holder()
    with being_answered(world, holder, [1, 2]) as future:
        revoke_key(world.database, name="ada")
    require_problem(future.result(), 401, "unauthenticated")
    require_sound(world.database)
    with world.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT spent FROM keys").scalar_one() == 0
        assert connection.exec_driver_sql("SELECT count(*) FROM answers").scalar_one() == 0


def test_a_ledger_that_is_locked(make_world: MakeWorld, ledger_url: str) -> None:
    world = make_world(ledger_timeout_s=0.05)
    holder = world.holder()
    first = holder.ask([1], Idempotency_Key="first")
    with closing(sqlite3.connect(file_of(ledger_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        problem = require_problem(holder.ask([2], Idempotency_Key="mine"), 503, "ledger_unavailable")
        assert problem["retryable"] is True
        assert "SQL" not in problem["detail"]
        require_problem(world.client.get("/readyz"), 503, "ledger_unavailable")
        assert world.client.get("/healthz").status_code == 200
        assert holder.spent() == 1, "reading goes on"
        assert holder.ask([1], Idempotency_Key="first").content == first.content
    assert world.client.get("/readyz").status_code == 200
    assert holder.buy([2], Idempotency_Key="mine").spent == 2
    require_sound(world.database)


def test_a_ledger_that_is_gone(world: World, ledger_url: str) -> None:
    holder = world.holder()
    holder.buy([1])
    aside = file_of(ledger_url).with_name("aside.db")
    file_of(ledger_url).rename(aside)
    require_problem(raw_call(world, npy_headers(holder.secret), never()), 503, "ledger_unavailable")
    for path in ("/readyz", "/v1/usage", "/v1/events", "/v1/teachers"):
        require_problem(holder.get(path), 503, "ledger_unavailable")
    assert world.client.get("/healthz").status_code == 200
    assert not file_of(ledger_url).exists()
    aside.rename(file_of(ledger_url))
    assert holder.buy([2]).spent == 2
    require_sound(world.database)


def test_a_ledger_that_goes_while_a_request_is_answered(world: World, ledger_url: str) -> None:
    holder = world.holder()
    aside = file_of(ledger_url).with_name("aside.db")
    with being_answered(world, holder, [1], Idempotency_Key="mine") as future:
        file_of(ledger_url).rename(aside)
    require_problem(future.result(), 503, "ledger_unavailable")
    aside.rename(file_of(ledger_url))
    assert holder.spent() == 0
    assert holder.buy([1], Idempotency_Key="mine").spent == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1", 404, "not_found"),
        ("POST", "/v1/teachers/numbers/label", 404, "not_found"),
        ("GET", "/v1/teachers/numbers/labels/x", 404, "not_found"),
        ("GET", "/static-offline-docs/../../etc/passwd", 404, "not_found"),
        ("GET", LABELS, 405, "method_not_allowed"),
        ("PUT", LABELS, 405, "method_not_allowed"),
        ("POST", "/v1/usage", 405, "method_not_allowed"),
        ("DELETE", "/v1/events", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_addresses_and_methods_that_are_not_there(
    world: World, method: str, path: str, status: int, code: str
) -> None:
    response = world.client.request(method, path, content=b"x" * 100)
    problem = require_problem(response, status, code)
    assert "/docs" in problem["detail"]
    if status == 405:
        assert response.headers["allow"] in ("GET", "POST")


def test_the_request_id_is_new_each_time(world: World) -> None:
    responses = [world.client.get("/healthz"), world.client.get("/nowhere"), world.client.get("/v1/usage")]
    assert len({response.headers["request-id"] for response in responses}) == 3


def test_a_wrongly_sized_image_in_a_batch_spoils_only_that_batch(world: World) -> None:
    holder = world.holder()
    require_problem(holder.post_npy(numbered_images([1])[:, :7]), 422, "invalid_images")
    assert holder.buy([1]).spent == 1
