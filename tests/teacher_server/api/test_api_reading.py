"""What can be read: teachers, usage, a key's own events, health and the documentation."""

import json
import re
from typing import Any

import pytest

from shared.wire.contracts import Event, EventsPage, TeacherCard, TeacherList
from shared.wire.error_codes import ERROR_KINDS
from shared.wire.receipts import chain_faults
from teacher_server.ledger.keys.issuing import grant_images
from tests.teacher_server.support import CLASSES, Holder, World, require_problem

V2_MODELS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def test_the_card_says_what_a_holder_needs(world: World) -> None:
    holder = world.holder(budget=9, disclosure="top-k:2")
    holder.buy([1, 2])
    card = TeacherCard.model_validate(holder.get("/v1/teachers/numbers").json())
    assert (card.name, card.version, tuple(card.classes)) == ("numbers", "1", CLASSES)
    assert card.input.model_dump() == {
        "height": 8,
        "width": 8,
        "channels": 1,
        "dtype": "uint8",
        "layout": "NHWC",
        "resize": "stretch",
    }
    assert card.images_per_request_max == world.settings.images_per_request_max
    assert card.body_bytes_max == world.settings.body_bytes_max
    assert (card.test_accuracy, card.test_dataset) == (0.75, "numbers")
    assert card.disclosure == "top-k:2"
    assert card.budget.model_dump() == {"granted": 9, "spent": 2, "remaining": 7}


def test_every_teacher_is_listed_and_none_shows_its_inside(world: World) -> None:
    holder = world.holder()
    response = holder.get("/v1/teachers")
    assert [card.name for card in TeacherList.model_validate(response.json()).teachers] == ["numbers", "numbers-too"]
    assert response.json()["teachers"][0] == holder.get("/v1/teachers/numbers").json()
    for text in (response.text, holder.get("/v1/teachers/numbers").text):
        for inner in ("network", "weight", "sha256", "safetensors", "bundle", "path", "mean", "std"):
            assert inner not in text.lower()


def test_both_teachers_spend_one_budget(world: World) -> None:
    holder = world.holder(budget=5)
    holder.buy([1, 2])
    holder.buy([1, 2], path="/v1/teachers/numbers-too/labels")
    assert holder.get("/v1/usage").json() == {"granted": 5, "spent": 4, "remaining": 1}
    assert [event["teacher"] for event in holder.get("/v1/events").json()["events"]] == ["", "numbers", "numbers-too"]


def test_events_are_paged_oldest_first(world: World) -> None:
    holder = world.holder()
    for turn in range(6):
        holder.buy([turn])
    whole = EventsPage.model_validate(holder.get("/v1/events").json())
    assert (len(whole.events), whole.next_after, whole.key_name) == (7, None, "ada")
    assert chain_faults(whole.events) == []
    for limit in (1, 2, 3, 7, 8):
        events: list[Event] = []
        after: int | None = 0
        pages = 0
        while after is not None:
            page = EventsPage.model_validate(holder.get("/v1/events", after=after, limit=limit).json())
            assert len(page.events) <= limit
            assert chain_faults(page.events, after=events[-1] if events else None) == []
            events += page.events
            after = page.next_after
            pages += 1
        assert events == whole.events
        assert pages <= 7 // limit + 1
    assert holder.get("/v1/events", after=7).json()["events"] == []
    assert holder.get("/v1/events", after=10**15).json()["events"] == []


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "limit=0", "limit=1001", "limit=", "after=99999999999999999999", "after=1e3"]
)
def test_senseless_pages_are_refused_by_name(world: World, query: str) -> None:
    holder = world.holder()
    response = world.client.get(f"/v1/events?{query}", headers=holder.headers())
    problem = require_problem(response, 422, "invalid_request")
    assert query.partition("=")[0] in problem["detail"]


def test_a_key_never_sees_another_s_events(world: World) -> None:
    ada, bob = world.holder("ada"), world.holder("bob")
    for turn in range(3):
        ada.buy([turn])
        bob.buy([turn, turn])
    grant_images(world.database, name="bob", images=7)

    def kinds(holder: Holder) -> list[tuple[str, str, int]]:
        return [(e["key_name"], e["kind"], e["images"]) for e in holder.get("/v1/events").json()["events"]]

    assert kinds(ada) == [("ada", "create", 1000)] + [("ada", "answer", 1)] * 3
    assert kinds(bob) == [("bob", "create", 1000)] + [("bob", "answer", 2)] * 3 + [("bob", "grant", 7)]
    assert "bob" not in ada.get("/v1/events").text


# --- documentation ------------------------------------------------------------------------------------------------


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        here = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return here + [ref for inner in value.values() for ref in references(inner)]
    return [ref for inner in value for ref in references(inner)] if isinstance(value, list) else []


def test_the_openapi_document_describes_what_is_there(world: World) -> None:
    response = world.client.get("/openapi.json")
    document: dict[str, Any] = response.json()
    assert response.status_code == 200
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"]
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == {
        ("get", "/v1/teachers"),
        ("get", "/v1/teachers/{name}"),
        ("get", "/v1/teachers/{name}/versions/{version}"),
        ("post", "/v1/teachers/{name}/versions/{version}/labels"),
        ("post", "/v1/teachers/{name}/labels"),
        ("get", "/v1/usage"),
        ("get", "/v1/events"),
        ("get", "/.well-known/teacher-signing-keys"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/v2"),
        ("get", "/v2/health/live"),
        ("get", "/v2/health/ready"),
        *(("get", f"{model}{part}") for model in V2_MODELS for part in ("", "/ready")),
        *(("post", f"{model}/infer") for model in V2_MODELS),
        ("post", "/hf/{name}"),
        ("post", "/hf/{name}/versions/{version}"),
    }
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            has_security = path == "/v2" or path.startswith(("/v1/", "/hf/", "/v2/models/"))
            assert bool(operation.get("security")) is has_security, path
            error = "application/json" if path.startswith(("/v2", "/hf")) else "application/problem+json"
            for status, described in operation["responses"].items():
                assert status == "200" or error in described["content"], "errors have the form of their door"
    body = document["paths"]["/v1/teachers/{name}/labels"]["post"]["requestBody"]
    assert sorted(body["content"]) == ["application/x-npy", "multipart/form-data"]
    for reference in references(document):
        inner: Any = document
        for step in reference.removeprefix("#/").split("/"):
            inner = inner[step]
    for code, kind in ERROR_KINDS.items():
        assert f"`{code}` | {kind.status} |" in document["info"]["description"]
    for inner in ("lenet", "safetensors", "sha256"):
        assert inner not in json.dumps(document).lower()


def test_the_documentation_needs_no_other_host(world: World) -> None:
    page = world.client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    loaded = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)["']""", page.text)
    assert len(loaded) >= 2
    for address in loaded:
        assert address.startswith("/")
        assert not address.startswith("//")
        assert world.client.get(address).status_code == 200
    assert not re.search(r"https?://", page.text)
    assert world.client.get("/redoc").status_code == 404
