"""What no run begins with, or goes on with: a budget too small, another teacher, a test set in the pool."""

from pathlib import Path
from typing import Any

import pytest

from distill_client.config import RunConfig
from distill_client.errors import BudgetExhausted, ConfigError, ReceiptFault, RunStoreError, TeacherUnavailable
from distill_client.material import Material
from distill_client.plan import draw_held_out
from distill_client.pool import Pool
from distill_client.run_folder import open_run
from shared.wire.images import image_digests
from tests.distill_client.fakes import (
    FakeTeacher,
    Signer,
    begin,
    bring_to_its_end,
    tiny_config,
)


def test_a_server_that_begins_to_sign_in_mid_run_is_pinned_then_and_may_not_stop(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100, fails_before={3}), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    assert open_run(path).record.pin is None
    teacher.signer = Signer()
    summary = bring_to_its_end(path, teacher)
    assert summary["audit"]["equal"], summary["audit"]["faults"]
    assert summary["audit"]["receipts"] == 6
    assert (
        "6 of 8 answers have a receipt, the others are from before the server signed" in summary["audit"]["sentence"]
    )
    pin = open_run(path).record.pin
    assert pin is not None
    assert (pin.signing_key, pin.receipts_after) == (teacher.signer.current, 3)
    teacher.signer = None
    with pytest.raises(ReceiptFault, match="now it shows no signing keys; nothing is bought without receipts"):
        bring_to_its_end(path, teacher)


def test_a_server_with_another_signing_key_sells_nothing_more(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100, fails_before={3}, signer=Signer()), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    honest, teacher.signer, calls = teacher.signer, Signer(), teacher.calls
    with pytest.raises(ReceiptFault, match="does not follow by endorsements from"):
        bring_to_its_end(path, teacher)
    assert teacher.calls == calls
    teacher.signer = honest
    assert honest is not None
    honest.rotate()
    summary = bring_to_its_end(path, teacher)
    assert summary["audit"]["receipts"] == 8
    assert summary["last_receipt"]["signing_key"] == honest.current != summary["audit"]["pinned"]


def test_a_key_that_cannot_pay_is_refused_before_the_first_query(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=120), tmp_path / "run"
    teacher.charge_other_run(21)
    begin(path, tiny_config(), teacher)
    with pytest.raises(BudgetExhausted, match=r"100 images are still to be bought, 99 of 120 remain.*a grant of 1,"):
        bring_to_its_end(path, teacher)
    assert teacher.calls == 0
    teacher.append(kind="grant", images=1)
    assert bring_to_its_end(path, teacher)["audit"]["equal"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2"}, "version 1 .* now has version 2"),
        ({"disclosure": "label"}, "disclosure label for this key"),
    ],
)
def test_another_teacher_under_the_same_name_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = tmp_path / "run"
    now = FakeTeacher()
    begin(path, tiny_config(), now)
    for name, value in change.items():
        setattr(now, name, value)
    with pytest.raises(RunStoreError, match=message):
        bring_to_its_end(path, now)
    assert now.calls == 0


class Replaced(FakeTeacher):
    """Its owner puts another version in its place after the third answer."""

    def label(self, *arguments: Any) -> Any:
        if self.calls == 3:
            self.version = "2"
        return super().label(*arguments)


def test_a_teacher_replaced_in_mid_run_is_noticed_at_its_first_answer(tmp_path: Path) -> None:
    teacher, path = Replaced(), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(RunStoreError, match=r"began with version 1 .* answered with version 2"):
        bring_to_its_end(path, teacher)
    assert teacher.calls == 4


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (FakeTeacher(image_hwc=(32, 32, 3)), r"images of \(28, 28, 1\); teacher fake takes \(32, 32, 3\)"),
        (FakeTeacher(class_names=tuple("123456789")), "answers in"),
        (FakeTeacher(class_names=tuple("1023456789")), "answers in"),
    ],
    ids=["shape", "fewer classes", "order of classes"],
)
def test_a_teacher_of_other_images_or_classes_is_refused(tmp_path: Path, teacher: FakeTeacher, message: str) -> None:
    begin(tmp_path / "run", tiny_config(), teacher)
    with pytest.raises(ConfigError, match=message):
        bring_to_its_end(tmp_path / "run", teacher)
    assert teacher.calls == 0


def test_a_pool_that_overlaps_the_test_set_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    """Pools are drawn around the test set; should one ever not be, nothing of it leaves the house."""
    config, teacher, path = tiny_config(), FakeTeacher(), tmp_path / "run"
    begin(path, config, teacher)
    material = Material(config)
    images = material.pool.images_nhwc.copy()
    assert material.test is not None
    images[17] = material.test.images_nhwc[3]
    material.pool = Pool(images, material.pool.truth_n, material.pool.class_names)
    with pytest.raises(ConfigError, match="image 17 of stage pool is in the test set"):
        bring_to_its_end(path, teacher, material=material)
    assert teacher.calls == 0
    with open_run(path) as folder:
        assert folder.labels.stages() == []


def test_the_drawn_pool_is_disjoint_from_the_test_set_also_where_data_sets_overlap() -> None:
    material = Material(tiny_config(pool={"images": 900}, budget_images=1000))
    assert material.forbidden.isdisjoint(image_digests(material.pool.images_nhwc))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"network": "resnet"}}, r"student\.network: network is 'resnet'; allowed are"),
        (
            {"pool": {"size": "32x32x1"}},
            r"student\.network: network lenet5-half is defined for 28x28 images, not 32x32",
        ),
        ({"pool": {"dataset": "numbers"}}, r"pool\.dataset: data set is 'numbers'; allowed are"),
        ({"evaluation": {"dataset": "numbers"}}, r"evaluation\.dataset: data set is 'numbers'; allowed are"),
        ({"pool": {"images": 5000}}, r"pool\.images is 5000; at most"),
        ({"budget_images": 99}, r"budget_images is 99; .*at least 100 is needed"),
    ],
)
def test_what_cannot_finish_is_refused_before_there_is_a_run(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Material(tiny_config(**changes))


def test_holding_out_the_whole_pool_is_refused_before_anything_is_bought(tmp_path: Path) -> None:
    """Few real images and a large fraction: some seeds hold out all of the pool, and standard-kd learns from that."""

    def config(seed: int, **more: Any) -> RunConfig:
        changes: dict[str, Any] = {"pool": {"images": 2}, "evaluation": {"held_out_fraction": 0.49}} | more
        return tiny_config(seed=seed, synthesis={"images": 6, "cvae": {"epochs": 1}}, **changes)

    unlucky = next(seed for seed in range(1000) if draw_held_out(config(seed), 8)[:2].all())
    lucky = next(seed for seed in range(1000) if not draw_held_out(config(seed), 8)[:2].all())
    teacher = FakeTeacher()
    begin(tmp_path / "unlucky", config(unlucky), teacher)
    with pytest.raises(ConfigError, match=r"evaluation\.held_out_fraction is 0\.49, which holds out all of"):
        bring_to_its_end(tmp_path / "unlucky", teacher)
    assert teacher.calls == 0
    without = config(unlucky, baselines={"standard_kd": False})
    for name, possible in (("lucky", config(lucky)), ("without", without)):
        begin(tmp_path / name, possible, FakeTeacher())
        assert bring_to_its_end(tmp_path / name, FakeTeacher())["audit"]["equal"]
