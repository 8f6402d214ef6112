"""Limits as a client sees them: codes, Retry-After, RateLimit fields, and nothing worked out that is not sold."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from teacher_server.ledger.keys.issuing import find_key
from teacher_server.ledger.keys.key_rotation import rotate_secret
from teacher_server.ledger.keys.policies import change_policy
from tests.teacher_server.clocks import Clock
from tests.teacher_server.conftest import MakeWorld
from tests.teacher_server.support import Holder, World, history, require_problem, require_sound


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def limited(world: World, *, budget: int = 1000, **limits: int) -> Holder:
    holder = world.holder(budget=budget)
    change_policy(world.database, name="ada", changes=limits)
    return holder


def rate_limits(response: Any) -> dict[str, dict[str, int]]:
    """Both fields, taken apart: name -> parameter -> value."""
    found: dict[str, dict[str, int]] = {}
    for field in ("ratelimit-policy", "ratelimit"):
        for member in response.headers[field].split(", "):
            name, *parameters = member.split(";")
            values = dict(parameter.split("=") for parameter in parameters)
            if field == "ratelimit-policy":
                assert values.pop("teacher-unit") == '"images"'
            found.setdefault(name.strip('"'), {}).update({key: int(value) for key, value in values.items()})
    return found


def test_every_answer_says_what_the_limits_leave(world: World, clock: Clock) -> None:
    holder = limited(world, budget=50, images_per_day=20, images_per_second=1)
    first = holder.ask([1, 2, 3], Idempotency_Key="first")
    assert rate_limits(first) == {
        "lifetime": {"q": 50, "r": 47},
        "day": {"q": 20, "w": 86_400, "r": 17, "t": 43_200},
        "rate": {"q": 10, "w": 10, "r": 7, "t": 10},
    }
    holder.ask([4])
    again = holder.ask([1, 2, 3], Idempotency_Key="first")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert {name: limit["r"] for name, limit in rate_limits(again).items()} == {"lifetime": 46, "day": 16, "rate": 6}
    npy = holder.ask([5], Accept="application/x-npy")
    assert rate_limits(npy)["day"]["r"] == 15


def test_a_key_with_a_budget_only_has_one_limit(world: World) -> None:
    assert rate_limits(world.holder(budget=5).ask([1, 2])) == {"lifetime": {"q": 5, "r": 3}}


def test_a_day_that_is_used_up(world: World, clock: Clock) -> None:
    holder = limited(world, images_per_day=5)
    holder.buy([1, 2, 3])
    calls = world.classifier.calls
    for _ in range(3):
        response = holder.ask([4, 5, 6])
        problem = require_problem(response, 429, "daily_budget_exhausted")
        assert problem["retryable"] is True
        assert (problem["images_per_day"], problem["spent_today"], problem["asked"]) == (5, 3, 3)
        assert response.headers["retry-after"] == "43200"
        assert rate_limits(response)["day"] == {"q": 5, "w": 86_400, "r": 2, "t": 43_200}
    assert world.classifier.calls == calls, "refused before it was worked out"
    events = history(world.database, find_key(world.database, "ada"))
    assert [event.kind for event in events] == ["create", "policy", "answer", "refuse"]
    clock.forward(43_200)
    holder.buy([4, 5, 6])
    require_sound(world.database)


def test_a_rate_that_is_passed(world: World, clock: Clock) -> None:
    holder = limited(world, images_per_second=1)
    holder.buy([1] * 6)
    clock.forward(3)
    holder.buy([2] * 4)
    response = holder.ask([3])
    problem = require_problem(response, 429, "rate_limited")
    assert (problem["images_per_second"], problem["spent_in_window"], problem["window_s"]) == (1, 10, 10)
    assert response.headers["retry-after"] == "7"
    assert rate_limits(response)["rate"] == {"q": 10, "w": 10, "r": 0, "t": 10}
    clock.forward(7)
    holder.buy([3])
    assert [event.kind for event in history(world.database, find_key(world.database, "ada"))].count("refuse") == 0


def test_in_real_time_a_client_that_waits_as_told_gets_everything(world: World) -> None:
    holder = limited(world, images_per_second=1)
    holder.buy([1] * 8)
    response = holder.ask([2] * 3)
    require_problem(response, 429, "rate_limited")
    wait = int(response.headers["retry-after"])
    assert 9 <= wait <= 10
    time.sleep(wait - 1)
    require_problem(holder.ask([2] * 3), 429, "rate_limited")
    time.sleep(1)
    assert holder.buy([2] * 3).spent == 11


def test_a_batch_that_no_window_holds_is_not_to_be_asked_again(world: World, clock: Clock) -> None:
    holder = limited(world, images_per_day=50, images_per_second=3)
    problem = require_problem(holder.ask([1] * 31), 413, "too_many_images")
    assert problem["retryable"] is False
    assert (problem["images_per_second"], problem["images_per_request_max"], problem["asked"]) == (3, 30, 31)
    assert "images_per_day" in require_problem(holder.ask([1] * 51), 413, "too_many_images")
    assert holder.get("/v1/teachers/numbers").json()["images_per_request_max"] == 30
    holder.buy([1] * 30)


def test_the_budget_s_refusal_says_all_limits_too(world: World, clock: Clock) -> None:
    holder = limited(world, budget=5, images_per_day=50)
    response = holder.ask([1] * 6)
    require_problem(response, 403, "budget_exhausted")
    assert "retry-after" not in response.headers
    assert {name: limit["r"] for name, limit in rate_limits(response).items()} == {"lifetime": 5, "day": 50}


def test_images_in_flight_count_for_a_day_and_a_rate(world: World) -> None:
    holder = limited(world, images_per_day=10)
    world.classifier.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(holder.ask, [1] * 8)
        assert world.classifier.waiting.acquire(timeout=30)
        try:
            require_problem(holder.ask([2] * 3), 503, "overloaded")
            change_policy(world.database, name="ada", changes={"images_per_day": None, "images_per_second": 1})
            response = holder.ask([2] * 3)
            require_problem(response, 429, "rate_limited")
            assert response.headers["retry-after"] == "10"
        finally:
            world.classifier.may_go_on.set()
    assert first.result().status_code == 200
    require_sound(world.database)


def test_one_key_leaves_places_for_others(make_world: MakeWorld) -> None:
    world = make_world(requests_in_flight_max=4, requests_in_flight_per_key_max=2)
    ada, bob = world.holder("ada"), world.holder("bob")
    world.classifier.may_go_on.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ada.ask, [number]) for number in range(2)]
        assert all(world.classifier.waiting.acquire(timeout=30) for _ in asked)
        try:
            response = ada.ask([9])
            assert "of this key" in require_problem(response, 503, "overloaded")["detail"]
            assert response.headers["retry-after"] == "1"
            asked.append(pool.submit(bob.ask, [3]))
            assert world.classifier.waiting.acquire(timeout=30)
        finally:
            world.classifier.may_go_on.set()
    assert [future.result().status_code for future in asked] == [200] * 3
    assert ada.buy([9]).spent == 3


def test_usage_says_what_is_left_of_every_limit(world: World, clock: Clock) -> None:
    holder = limited(world, budget=100, images_per_day=20, images_per_second=1)
    holder.buy([1, 2, 3])
    clock.forward(15)
    response = holder.get("/v1/usage")
    assert response.json() == {
        "granted": 100,
        "spent": 3,
        "remaining": 97,
        "images_per_day": 20,
        "spent_today": 3,
        "day_ends_after_s": 43_185,
        "images_per_second": 1,
        "window_s": 10,
        "spent_in_window": 0,
    }
    assert rate_limits(response)["rate"] == {"q": 10, "w": 10, "r": 10}


def test_an_old_secret_buys_until_its_end(world: World, clock: Clock) -> None:
    old = world.holder()
    _, secret, _ = rotate_secret(world.database, name="ada", overlap=timedelta(hours=1))
    new = Holder(world.client, secret)
    assert old.buy([1], Idempotency_Key="a") == new.buy([1], Idempotency_Key="a"), "one key, one history"
    clock.forward(3600)
    detail = require_problem(old.ask([2]), 401, "unauthenticated")["detail"]
    assert not re.search("ada|rotat|expire", detail)
    assert new.buy([2]).spent == 2
    require_sound(world.database)
