"""Who is calling is decided from the headers alone, before a body is read, and anew for every request."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from teacher_server.ledger.keys.issuing import create_key, grant_images, revoke_key
from teacher_server.ledger.tables import keys
from tests.teacher_server.api.raw import never, npy_headers, raw_call
from tests.teacher_server.support import LABELS, PROBABILITIES, Holder, World, require_problem, require_sound

PROTECTED = ["/v1/teachers", "/v1/teachers/numbers", "/v1/teachers/no-such", "/v1/usage", "/v1/events"]
UNKNOWN = "tk-000000000000-" + "A" * 43


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YWRhOmFkYQ==",
        f"Bearer {UNKNOWN}",
        f"Bearer  {UNKNOWN} x",
        "Bearer \xe9\xff",
        "Bearer " + "x" * 5000,
        UNKNOWN,
    ],
)
def test_callers_without_a_valid_key_get_nothing(world: World, authorization: str | None) -> None:
    world.holder()
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in PROTECTED:
        require_problem(raw_call(world, headers, never(), path=path, method="GET"), 401, "unauthenticated")
    # the rest of the body is not waited for either: the connection closes
    answer = raw_call(world, headers | {"Content-Length": "1000"}, never())
    require_problem(answer, 401, "unauthenticated")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", [LABELS, "/v1/teachers/no-such/labels"])
def test_a_stranger_learns_nothing_about_teachers(world: World, path: str) -> None:
    problem = require_problem(raw_call(world, npy_headers(UNKNOWN), never(), path=path), 401, "unauthenticated")
    assert problem["retryable"] is False


def test_the_scheme_s_case_does_not_matter(world: World) -> None:
    holder = world.holder()
    for scheme in ("bearer", "BEARER"):
        response = world.client.get("/v1/usage", headers={"Authorization": f"{scheme} {holder.secret}"})
        assert response.status_code == 200


def test_a_key_made_granted_and_revoked_while_the_server_runs(world: World) -> None:
    holder = world.holder(budget=2)
    holder.buy([1, 2])
    require_problem(holder.ask([3]), 403, "budget_exhausted")
    grant_images(world.database, name="ada", images=1)
    assert holder.get("/v1/usage").json() == {"granted": 3, "spent": 2, "remaining": 1}
    assert holder.buy([3]).remaining == 0
    revoke_key(world.database, name="ada")
    assert "revoked" in require_problem(holder.ask([3]), 401, "unauthenticated")["detail"]
    for path in PROTECTED:
        require_problem(holder.get(path), 401, "unauthenticated")
    require_problem(raw_call(world, npy_headers(holder.secret), never()), 401, "unauthenticated")
    require_sound(world.database)


def test_a_key_that_expires_while_the_server_runs(world: World) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="microseconds")
    _, secret = create_key(world.database, name="ada", budget=5, disclosure=PROBABILITIES, expires_at=soon)
    holder = Holder(world.client, secret)
    holder.buy([1])
    with world.database.writing() as connection:
        connection.execute(update(keys).values(expires_at="2020-01-01T00:00:00.000000+00:00"))
    assert "expired" in require_problem(holder.ask([1]), 401, "unauthenticated")["detail"]


def test_health_needs_no_key(world: World) -> None:
    for path in ("/healthz", "/readyz"):
        response = world.client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
