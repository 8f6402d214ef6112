"""Policies through the whole server: the same noise for the same bytes whoever asks; the policy in every proof."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from shared.wire import contracts
from shared.wire.contracts import Disclosure, InputSpec, TeacherCard
from shared.wire.images import NPY_MEDIA_TYPE, Images, answer_digest, decode_npy
from shared.wire.receipts import disclosure_digest
from teacher_server.app import create_app
from teacher_server.ledger.charging.answers import expire_bodies
from teacher_server.ledger.databases.database import Database
from teacher_server.ledger.keys.issuing import create_key
from teacher_server.ledger.keys.policies import DisclosureChange, change_policy
from teacher_server.ledger.noise_secrets import find_noise_secret
from teacher_server.settings import TeacherSettings
from teacher_server.teachers.teacher import Teacher
from tests.ledger_places import LedgerPlace
from tests.teacher_server.support import LABELS, Holder, numbered_images, require_problem, require_sound

CLASSES = tuple("abcdefg")
VERSION_2 = "/v1/teachers/numbers/versions/2/labels"


@dataclass
class SoftClassifier:
    """Some distribution for each image; like a real one, a little different with the batch that a row is in."""

    classes: int = len(CLASSES)

    def probabilities(self, images_nhwc: Images) -> NDArray[np.float32]:
        numbers = images_nhwc[:, 0, 0, 0].astype(np.int64) * 256 + images_nhwc[:, 0, 1, 0]
        rows = [np.random.default_rng(number).normal(0, 2, self.classes) for number in numbers.tolist()]
        weights_nk = np.exp(np.stack(rows) + 1e-9 * len(rows))
        shares_nk: NDArray[np.float32] = (weights_nk / weights_nk.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares_nk


@dataclass
class Servers:
    """Any number of servers on one ledger, each of which serves two versions of the same teacher."""

    place: LedgerPlace
    database: Database
    stack: ExitStack

    def start(self) -> TestClient:
        settings = TeacherSettings.load(
            bundles=(Path("unused"),), ledger=self.place.url, signing_key=self.place.signing_key
        )
        served = [
            Teacher(
                "numbers", version, CLASSES, InputSpec(height=8, width=8, channels=1), SoftClassifier(), None, None
            )
            for version in ("2", "1")
        ]
        return self.stack.enter_context(TestClient(create_app(settings, served), raise_server_exceptions=False))

    def secret(self, name: str, disclosure: str) -> str:
        policy = Disclosure.parse(disclosure)
        return create_key(self.database, name=name, budget=10_000, disclosure=policy, expires_at=None)[1]


@pytest.fixture
def servers(place: LedgerPlace) -> Iterator[Servers]:
    with place.open(create=True) as database, ExitStack() as stack:
        yield Servers(place, database, stack)
        stack.close()
        require_sound(database)


def values(holder: Holder, numbers: list[int], *, path: str = LABELS, **headers: str) -> NDArray[np.generic]:
    response = holder.post_npy(numbered_images(numbers), path=path, Accept=NPY_MEDIA_TYPE, **headers)
    assert response.status_code == 200, response.text
    return decode_npy(response.content)


NUMBERS = list(range(100, 160))


def test_the_same_bytes_get_the_same_noise_whoever_asks_wherever_and_however_often(servers: Servers) -> None:
    policy = "probabilities;noise=0.5;decimals=4"
    first, second = servers.start(), servers.start()
    ada, bob = servers.secret("ada", policy), servers.secret("bob", policy)
    wanted = values(Holder(first, ada), NUMBERS)
    plain = SoftClassifier().probabilities(numbered_images(NUMBERS))
    assert np.abs(np.log(wanted.astype(float) + 1e-4) - np.log(plain + 1e-4)).max() > 0.3, "there is noise"
    for holder in (Holder(first, ada), Holder(first, bob), Holder(second, bob)):
        assert np.array_equal(values(holder, NUMBERS), wanted)
        assert np.array_equal(values(holder, NUMBERS[::-1])[::-1], wanted)
        assert all(np.array_equal(values(holder, [NUMBERS[row]])[0], wanted[row]) for row in range(5))
        assert np.array_equal(values(holder, [7, 7, NUMBERS[3], 7])[2], wanted[3])
    servers.stack.close()  # all of them; and one after a restart
    assert np.array_equal(values(Holder(servers.start(), ada), NUMBERS), wanted)


def test_servers_that_need_a_version_s_secret_at_the_same_time_draw_alike(servers: Servers) -> None:
    started = [servers.start() for _ in range(3)]
    secret = servers.secret("ada", "label;noise=5")
    barrier = threading.Barrier(3)

    def ask(client: TestClient) -> list[int]:
        barrier.wait(timeout=30)
        found: list[int] = values(Holder(client, secret), NUMBERS).tolist()
        return found

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, started))
    assert answers[0] == answers[1] == answers[2]


def test_versions_draw_from_secrets_of_their_own(servers: Servers) -> None:
    holder = Holder(servers.start(), servers.secret("ada", "probabilities;noise=0.5;decimals=6"))
    one, two = values(holder, NUMBERS).astype(float), values(holder, NUMBERS, path=VERSION_2).astype(float)
    plain = SoftClassifier().probabilities(numbered_images(NUMBERS)).astype(float)

    def drawn(disclosed_nk: NDArray[np.float64]) -> NDArray[np.float64]:
        noise_nk = np.log(disclosed_nk + 1e-6) - np.log(plain)
        centred: NDArray[np.float64] = noise_nk - noise_nk.mean(axis=1, keepdims=True)
        return centred.ravel()

    assert abs(np.corrcoef(drawn(one), drawn(two))[0, 1]) < 0.5
    assert find_noise_secret(servers.database, "numbers", "1") != find_noise_secret(servers.database, "numbers", "2")


def test_other_policies_of_the_same_noise_show_more_or_less_of_the_same_row(servers: Servers) -> None:
    client = servers.start()
    texts = ("probabilities;noise=1;decimals=6", "top-k:2;noise=1;decimals=2", "label;noise=1",
             "probabilities;temperature=4;noise=1;decimals=6")  # fmt: skip
    whole, top_2, label, warm = (
        values(Holder(client, servers.secret(f"key-{place}", text)), NUMBERS) for place, text in enumerate(texts)
    )
    assert label.tolist() == whole.argmax(axis=1).tolist()
    assert np.array_equal(top_2[np.arange(len(NUMBERS)), label.astype(int)], np.nanmax(top_2, axis=1))
    assert label.tolist() != SoftClassifier().probabilities(numbered_images(NUMBERS)).argmax(axis=1).tolist()
    shown = ~np.isnan(top_2.astype(float))
    assert np.abs(top_2.astype(float) - whole)[shown].max() < 0.0101
    undone = warm.astype(float) ** 4
    assert np.abs(undone / undone.sum(axis=1, keepdims=True) - whole).max() < 2e-4


def test_without_noise_no_secret_is_made(servers: Servers) -> None:
    client = servers.start()
    for name, text in (("a", "probabilities"), ("b", "top-k:2;temperature=2;decimals=3"), ("c", "label")):
        values(Holder(client, servers.secret(name, text)), NUMBERS)
    assert find_noise_secret(servers.database, "numbers", "1") is None


@pytest.mark.parametrize(
    "text",
    ["probabilities;temperature=2;noise=0.1;decimals=2", "top-k:3;decimals=3", "label;noise=0.2",
     "top-k:3;temperature=0.5;noise=0.05;decimals=1"],
)  # fmt: skip
def test_the_whole_policy_stands_in_card_answer_event_and_receipt(servers: Servers, text: str) -> None:
    holder = Holder(servers.start(), servers.secret("ada", text))
    assert TeacherCard.model_validate(holder.get("/v1/teachers/numbers").json()).disclosure == text
    response = holder.ask(NUMBERS)
    assert response.headers[contracts.HEADER_DISCLOSURE] == text
    event = response.json()["receipt"]["event"]
    assert (event["disclosure"], event["disclosure_digest"]) == (text, disclosure_digest(text))
    assert event["answer_digest"] == answer_digest(values(holder, NUMBERS))  # type: ignore[arg-type]  # of either kind
    assert {one["disclosure"] for one in holder.get("/v1/events").json()["events"]} == {text}


@pytest.mark.parametrize("decimals", [1, 2, 5, 6])
def test_rows_in_json_sum_to_exactly_one_as_they_are_written(servers: Servers, decimals: int) -> None:
    client = servers.start()
    whole = Holder(client, servers.secret("ada", f"probabilities;decimals={decimals}")).ask(NUMBERS)
    rows = json.loads(whole.text, parse_float=Decimal)["probabilities"]
    assert [sum(row) for row in rows] == [1] * len(NUMBERS)
    assert all(round(value, decimals) == value for row in rows for value in row)
    cut = Holder(client, servers.secret("bob", f"top-k:3;decimals={decimals}")).ask(NUMBERS)
    for row in json.loads(cut.text, parse_float=Decimal)["top_k"]:
        assert len(row) == 3
        assert sum(shown["probability"] for shown in row) <= 1


def test_values_that_expired_are_computed_again_with_the_same_noise_or_not_at_all(servers: Servers) -> None:
    holder = Holder(servers.start(), servers.secret("ada", "probabilities;temperature=2;noise=0.5;decimals=4"))
    first = values(holder, NUMBERS, Idempotency_Key="one")
    assert expire_bodies(servers.database, kept_s=86_400, bytes_max=0) == 1
    again = holder.ask(NUMBERS, Accept=NPY_MEDIA_TYPE, Idempotency_Key="one")
    assert again.headers[contracts.HEADER_RECOMPUTED] == "true"
    assert np.array_equal(decode_npy(again.content), first)
    change_policy(servers.database, name="ada", changes={}, disclosure=DisclosureChange(temperature="3"))
    require_problem(holder.ask(NUMBERS, Idempotency_Key="one"), 410, "answer_expired")
    change_policy(servers.database, name="ada", changes={}, disclosure=DisclosureChange(temperature="2"))
    assert np.array_equal(values(holder, NUMBERS, Idempotency_Key="one"), first)
    with servers.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM noise_secrets")
    require_problem(holder.ask(NUMBERS, Idempotency_Key="one"), 410, "answer_expired")
    assert find_noise_secret(servers.database, "numbers", "1") is None
    assert holder.spent() == len(NUMBERS)


def test_a_policy_changed_between_two_requests_holds_from_the_next_one_on(servers: Servers) -> None:
    holder = Holder(servers.start(), servers.secret("ada", "probabilities"))
    before = values(holder, NUMBERS, Idempotency_Key="one")
    change_policy(servers.database, name="ada", changes={}, disclosure=DisclosureChange(noise="0.2", decimals="3"))
    after = holder.ask(NUMBERS, Accept=NPY_MEDIA_TYPE)
    assert after.headers[contracts.HEADER_DISCLOSURE] == "probabilities;noise=0.2;decimals=3"
    assert not np.array_equal(decode_npy(after.content), before)
    assert np.array_equal(values(holder, NUMBERS, Idempotency_Key="one"), before), "what was sold stays what it was"


def test_a_request_may_say_under_which_policy_it_is_to_be_answered(servers: Servers) -> None:
    holder = Holder(servers.start(), servers.secret("ada", "probabilities"))
    said = {"Teacher_Disclosure": "probabilities"}
    before = values(holder, NUMBERS, Idempotency_Key="one", **said)
    change_policy(servers.database, name="ada", changes={}, disclosure=DisclosureChange(decimals="6"))
    for disclosure in ("probabilities", "", "label", "x" * 200, "probabilities;decimals=06"):
        content = numbered_images(NUMBERS)
        problem = require_problem(holder.post_npy(content, Teacher_Disclosure=disclosure), 412, "disclosure_changed")
        assert problem["detail"].endswith("but this key's is 'probabilities;decimals=6' now")
    assert holder.spent() == len(NUMBERS), "nothing more was charged"
    assert np.array_equal(values(holder, NUMBERS, Idempotency_Key="one", **said), before), (
        "what was sold is had again"
    )
    assert len(values(holder, NUMBERS, Teacher_Disclosure="probabilities;decimals=6")) == len(NUMBERS)
    assert holder.spent() == 2 * len(NUMBERS)
