"""Every kind of disclosure policy, from the server's key to the client's store: bought, proved, never mixed."""

from pathlib import Path

import numpy as np
import pytest

from distill_client.errors import RunStoreError, TeacherChanged
from distill_client.student.targets import targets_from_values
from distill_client.teachers.paid.buying import buy_stage
from shared.wire.disclosure import Disclosure
from shared.wire.images import image_digests
from shared.wire.receipts import disclosure_digest
from teacher_server.disclosure import disclose, draw_noise
from teacher_server.ledger.keys.policies import DisclosureChange, change_policy
from teacher_server.ledger.noise_secrets import find_noise_secret
from tests.contract.test_receipts_and_audits import buying
from tests.contract.world import CLASSES, World, some_images
from tests.distill_client.fakes import answer_to

POLICIES = [
    "probabilities;decimals=1",
    "probabilities;decimals=6",
    "probabilities;temperature=4;decimals=3",
    "probabilities;temperature=0.5;noise=0.2;decimals=2",
    "top-k:3;decimals=2",
    "top-k:3;temperature=2;noise=0.1;decimals=2",
    "top-k:99;noise=5;decimals=4",
    "label;noise=1",
]


@pytest.mark.parametrize("text", POLICIES)
def test_what_the_client_keeps_is_what_the_policy_gives(world: World, tmp_path: Path, text: str) -> None:
    with buying(world, tmp_path, world.key(disclosure=text)) as buyer:
        buyer.buy("pool", 40, seed=1)
        audit = buyer.audit()
        assert audit.is_equal, audit.faults
        assert (audit.bought, audit.receipts) == (40, 5)
        purchases = buyer.store.purchases()
        kept = buyer.store.labelled("pool").values
        events = [event for event in buyer.teacher.events() if event.kind == "answer"]
    assert {purchase.disclosure for purchase in purchases} == {text}
    assert {(event.disclosure, event.disclosure_digest) for event in events} == {(text, disclosure_digest(text))}

    policy, images = Disclosure.parse(text), some_images(40, seed=1)
    noise_nk = None
    if policy.noise:
        secret = find_noise_secret(world.database, "hash", "7")
        assert secret is not None
        noise_nk = draw_noise(secret, image_digests(images), noise=policy.noise, classes=len(CLASSES))
    wanted = disclose(answer_to(images).astype(np.float32), policy, noise_nk)
    assert np.array_equal(kept, wanted, equal_nan=kept.dtype.kind == "f")
    assert np.allclose(targets_from_values(kept, len(CLASSES)).sum(axis=1), 1)


def test_a_policy_that_changes_while_a_stage_is_bought_ends_it_uncharged_and_restored_it_goes_on(
    world: World, tmp_path: Path
) -> None:
    with buying(world, tmp_path, world.key(disclosure="top-k:3;decimals=3")) as buyer:
        buyer.store.record_stage("pool", some_images(48), images_per_request=8)
        teacher = buyer.proven
        card = teacher.card()

        def change_after_the_first(_: object) -> None:
            if buyer.store.images_bought() == 8:
                change_policy(world.database, name="ada", changes={}, disclosure=DisclosureChange(temperature="2"))

        with pytest.raises(
            TeacherChanged, match=r"no other, but: .*'top-k:3;temperature=2;decimals=3' now.*keys set"
        ):
            buy_stage(buyer.store, teacher, "pool", card=card, requests_in_flight=1, progress=change_after_the_first)
        assert buyer.store.images_bought() == teacher.usage().spent == 8
        change_policy(world.database, name="ada", changes={}, disclosure=DisclosureChange(temperature="none"))
        buy_stage(buyer.store, teacher, "pool", card=card, requests_in_flight=2, progress=lambda _: None)
        assert buyer.store.images_bought() == teacher.usage().spent == 48
        assert {purchase.disclosure for purchase in buyer.store.purchases()} == {"top-k:3;decimals=3"}
        assert buyer.audit().is_equal


def test_an_answer_under_another_policy_is_not_kept_where_the_request_named_none(
    world: World, tmp_path: Path
) -> None:
    """As an older server would answer: the store looks at every answer itself."""
    with buying(world, tmp_path, world.key()) as buyer:
        buyer.store.record_stage("pool", some_images(8), images_per_request=8)
        card = world.connect(world.key("bob")).card()
        change_policy(world.database, name="ada", changes={}, disclosure=DisclosureChange(decimals="6"))
        told = "disclosure probabilities; teacher hash has answered .* and disclosure probabilities;decimals=6"
        with pytest.raises(RunStoreError, match=told):
            buy_stage(buyer.store, buyer.teacher, "pool", card=card, requests_in_flight=1, progress=lambda _: None)
        assert buyer.store.images_bought() == 0
