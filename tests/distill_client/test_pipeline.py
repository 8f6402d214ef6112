import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from distill_client import pipeline
from distill_client.audit import audit_folder
from distill_client.config import RunConfig
from distill_client.errors import BudgetExhausted, ConfigError, ReceiptFault, RunStoreError, TeacherUnavailable
from distill_client.material import Material
from distill_client.plan import draw_held_out
from distill_client.pool import Pool
from distill_client.randomness import torch_generator
from distill_client.results import HELD_OUT, OWNER_FILE
from distill_client.run_folder import open_run
from distill_client.student.networks import create_student
from distill_client.synthesis import cvae
from shared.datasets import load_dataset
from shared.wire.contracts import Event
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import TeacherAnswers, write_teacher_answers
from tests.distill_client.fakes import (
    FakeTeacher,
    Interrupted,
    Signer,
    SilentReporter,
    answer_to,
    begin,
    bring_to_its_end,
    tiny_config,
)

Finished = tuple[Path, FakeTeacher, dict[str, Any]]


def weights_of(path: Path, contender: str = "student") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path / "contenders" / f"{contender}.safetensors")


def equal_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An uninterrupted run; tests only read it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path, teacher = tmp_path_factory.mktemp("runs") / "whole", FakeTeacher(budget=130)
    teacher.charge_other_run(30)
    begin(path, tiny_config(), teacher)
    summary = bring_to_its_end(path, teacher)
    torch.set_num_threads(before)
    return path, teacher, summary


def test_a_run_ends_with_three_equal_counts(finished: Finished) -> None:
    _, teacher, summary = finished
    images = summary["images"]
    assert images["planned"] == images["bought"] == images["charged_by_server"] == images["in_audit_log"] == 100
    assert sum(images["by_phase"].values()) == 100
    assert images["by_phase"]["pool"] == 40
    assert images["by_phase"]["mixup"] > 0
    assert images["by_phase"]["cvae"] > 0
    assert (summary["audit"]["equal"], summary["audit"]["faults"]) == (True, [])
    assert teacher.spent == 130
    assert len(set(teacher.images_seen)) == len(teacher.images_seen) == 100


def test_the_summary_says_all_that_it_must(finished: Finished) -> None:
    path, _, summary = finished
    assert json.loads((path / "summary.json").read_text()) == summary
    assert summary["teacher_accuracy"] == 0.75
    fractions = [summary["student_accuracy"], summary["agreement"], *summary["baselines"].values()]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in fractions)
    assert set(summary["baselines"]) == {"student_alone", "standard_kd"}
    assert set(summary["images"]) >= {"planned", "bought", "charged_by_server", "in_audit_log"}
    assert summary["agreement_on"] == HELD_OUT
    assert summary["agreement_images"] == 10
    phases = {"buy_pool", "buy_mixup", "buy_cvae", "train_cvae", "train_student", "train_standard_kd"}
    assert set(summary["seconds"]) == phases | {"train_student_alone", "evaluate"}
    assert all(seconds >= 0 for seconds in summary["seconds"].values())
    assert summary["config_digest"] == tiny_config().digest()
    assert summary["seed"] == 1
    assert {"python", "torch", "numpy"} <= set(summary["versions"])
    assert (summary["test_dataset"], summary["test_images"]) == ("digits", 450)


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


def test_the_students_card_says_what_it_cost_and_how_that_is_proved(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(signer=Signer()), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    summary = bring_to_its_end(path, teacher)
    card = json.loads((path / "student" / "card.json").read_text())
    assert card["audit"] == summary["audit"]["sentence"]
    assert card["last_receipt"] == summary["last_receipt"]
    text = (path / "student" / "README.md").read_text()
    for words in (
        "| teacher | fake, version 1; it disclosed probabilities |",
        "| real images | digits |",
        "| budget | 100 images |",
        "| answers bought | 100 (40 pool, ",
        f"| accuracy | {summary['student_accuracy']:.2%} on the test set of digits; the teacher's, as its owner",
        f"| agreement with the teacher | {summary['agreement']:.2%} (10 images: bought answers held out of trai",
        summary["audit"]["sentence"],
        json.dumps(summary["last_receipt"], indent=1),
    ):
        assert words in text, words
    begin(tmp_path / "unsigned", tiny_config(), FakeTeacher())
    bring_to_its_end(tmp_path / "unsigned", FakeTeacher())
    text = (tmp_path / "unsigned" / "student" / "README.md").read_text()
    assert "counts not proved by receipts" in text
    assert "last receipt" not in text


def test_no_test_image_was_ever_sent(finished: Finished) -> None:
    _, teacher, _ = finished
    assert frozenset(image_digests(load_dataset("digits", "test").images_nhwc)).isdisjoint(teacher.images_seen)


def test_the_student_trained_on_the_very_bytes_that_were_answered(
    finished: Finished,
) -> None:
    path, teacher, _ = finished
    with open_run(path) as folder:
        for stage in ("pool", "mixup", "cvae"):
            labelled = folder.labels.labelled(stage)
            assert np.array_equal(labelled.values, answer_to(labelled.images_nhwc))
            assert set(image_digests(labelled.images_nhwc)) <= set(teacher.images_seen)


def test_the_student_to_hand_on_can_be_used_without_this_program(
    finished: Finished,
) -> None:
    path, _, summary = finished
    card = json.loads((path / "student" / "card.json").read_text())
    weights = safetensors.torch.load_file(path / "student" / card["weights"])
    assert equal_weights(weights, weights_of(path))
    size = card["input"]
    network = create_student(
        card["network"],
        image_hwc=(size["height"], size["width"], size["channels"]),
        classes=len(card["classes"]),
        generator=torch_generator(9, "x"),
    )
    network.load_state_dict(weights)
    test = load_dataset("digits", "test")
    logits = network.eval()(torch.tensor(test.images_nhwc).permute(0, 3, 1, 2).float() / 255)
    right = float((logits.argmax(1).numpy() == test.truth_n).mean())
    assert abs(right - card["test_accuracy"]) < 0.005
    assert card["answers_bought"] == 100
    assert card["distilled_from"] == {"name": "fake", "version": "1"}
    assert card["run_id"] == summary["run_id"]


def test_a_run_leaves_nothing_unfinished_behind(finished: Finished) -> None:
    path, _, _ = finished
    assert list((path / "checkpoints").iterdir()) == []
    assert list(path.rglob("*.tmp")) == []
    assert {p.stem for p in (path / "contenders").iterdir()} == {"student", "standard_kd", "student_alone"}
    contenders = {json.loads(line)["contender"] for line in (path / "metrics.jsonl").read_text().splitlines()}
    assert contenders == {"student", "standard_kd", "student_alone"}
    assert list(path.parent.iterdir()) == [path]


def test_resuming_a_finished_run_buys_nothing_and_says_the_same(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    first = bring_to_its_end(path, teacher)
    weights, calls, metrics = weights_of(path), teacher.calls, (path / "metrics.jsonl").read_text()
    reporter = SilentReporter()
    again = bring_to_its_end(path, teacher, reporter)
    assert teacher.calls == calls
    assert reporter.trainings == []
    assert [(images, bought) for _, images, bought in reporter.stages] == [
        (count, count) for count in first["images"]["by_phase"].values()
    ]
    assert {key: value for key, value in again.items() if key != "seconds"} == {
        key: value for key, value in first.items() if key != "seconds"
    }
    assert equal_weights(weights_of(path), weights)
    assert (path / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize("is_charged", [False, True])
@pytest.mark.parametrize("lost_at", [1, 3, 4, 7, 8])
def test_a_run_cut_off_while_buying_ends_as_if_it_had_not_been(
    tmp_path: Path, finished: Finished, lost_at: int, is_charged: bool
) -> None:
    lost = {lost_at}
    teacher = FakeTeacher(budget=100, fails_after=lost) if is_charged else FakeTeacher(budget=100, fails_before=lost)
    path, reporter = tmp_path / "run", SilentReporter()
    begin(path, tiny_config(), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    summary = bring_to_its_end(path, teacher, reporter)
    assert teacher.spent == summary["images"]["bought"] == 100
    assert summary["audit"]["equal"]
    assert equal_weights(weights_of(path), weights_of(finished[0]))
    assert summary["student_accuracy"] == finished[2]["student_accuracy"]
    keys = [key for key, _ in teacher.asked]
    assert len(keys) == len(set(keys)) + 1  # the lost one, once more under its own key


@pytest.mark.parametrize("what", ["CVAE", "student", "standard_kd", "student_alone"])
def test_a_run_killed_while_training_ends_as_if_it_had_not_been(
    tmp_path: Path, finished: Finished, what: str
) -> None:
    teacher, path, reporter = FakeTeacher(budget=100), tmp_path / "run", SilentReporter()
    begin(path, tiny_config(), teacher)
    with pytest.raises(Interrupted):
        bring_to_its_end(path, teacher, SilentReporter(interrupt=what))
    summary = bring_to_its_end(path, teacher, reporter)
    assert reporter.trainings[0] == what
    assert teacher.spent == 100
    assert summary["audit"]["equal"]
    for contender in ("student", "standard_kd", "student_alone"):
        assert equal_weights(weights_of(path, contender), weights_of(finished[0], contender))
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len({(row["contender"], row["step"]) for row in rows})


def test_a_key_that_cannot_pay_is_refused_before_the_first_query(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=120), tmp_path / "run"
    teacher.charge_other_run(21)
    begin(path, tiny_config(), teacher)
    with pytest.raises(BudgetExhausted, match=r"100 images are still to be bought, 99 of 120 remain.*a grant of 1,"):
        bring_to_its_end(path, teacher)
    assert teacher.calls == 0
    teacher.append(kind="grant", images=1)
    assert bring_to_its_end(path, teacher)["audit"]["equal"]


def test_resuming_at_the_budgets_edge_counts_lost_answers_as_paid(tmp_path: Path) -> None:
    """The server charged a batch whose answer was lost: fewer images remain than are missing, and it is enough."""
    teacher, path = FakeTeacher(budget=100, fails_after={2}), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    assert teacher.usage().remaining == 100 - 32
    with open_run(path) as folder:
        assert folder.labels.images_bought() == 16
    assert bring_to_its_end(path, teacher)["images"]["charged_by_server"] == 100
    assert teacher.spent == 100


def test_someone_elses_spending_in_between_is_noticed_before_more_is_bought(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100, fails_before={3}), tmp_path / "run"
    begin(path, tiny_config(teacher={"requests_in_flight": 1}), teacher)
    with pytest.raises(TeacherUnavailable):
        bring_to_its_end(path, teacher)
    teacher.charge_other_run(5)
    calls = teacher.calls
    with pytest.raises(BudgetExhausted, match="ask the owner for a grant of 5"):
        bring_to_its_end(path, teacher)
    assert teacher.calls == calls


def test_a_finished_run_with_repeated_images_needs_no_budget_to_be_resumed(tmp_path: Path) -> None:
    """Its plan counts rows; images that came twice were bought once, and what is left may be spent by others."""
    config, teacher, path = tiny_config(synthesis={"images": 0}), FakeTeacher(budget=40), tmp_path / "run"
    begin(path, config, teacher)
    material = Material(config)
    images = material.pool.images_nhwc.copy()
    images[1] = images[0]
    material.pool = Pool(images, material.pool.truth_n, material.pool.class_names)
    first = bring_to_its_end(path, teacher, material=material)
    assert first["images"]["bought"] == teacher.spent == 39
    teacher.charge_other_run(1)
    again = bring_to_its_end(path, teacher, material=material)
    assert again["images"]["charged_by_server"] == 39
    assert again["audit"]["equal"]


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


@pytest.mark.parametrize(
    ("disclosure", "tail", "learnt_by"),
    [
        ("probabilities", "lump", "the divergence from whole distributions"),
        ("label", "lump", "cross-entropy with labels"),
        ("top-k:1", "lump", "the divergence on the named classes, the others as one"),
        ("top-k:3", "lump", "the divergence on the named classes, the others as one"),
        ("top-k:3", "spread", "the divergence, with the mass of classes that are not named spread evenly over them"),
        ("top-k:10", "lump", "the divergence from whole distributions"),
    ],
)
def test_runs_on_less_than_probabilities_and_says_how_it_learns(
    tmp_path: Path, disclosure: str, tail: str, learnt_by: str
) -> None:
    teacher, reporter, path = FakeTeacher(disclosure=disclosure), SilentReporter(), tmp_path / "run"
    begin(path, tiny_config(training={"tail": tail}), teacher)
    summary = bring_to_its_end(path, teacher, reporter)
    assert summary["images"]["charged_by_server"] == 100
    assert summary["images"]["rejected"] == 0
    assert summary["audit"]["equal"]
    assert 0 <= summary["agreement"] <= 1
    learnt_by += f" (disclosure {disclosure})"
    if disclosure == "label":
        learnt_by += "; the student also from an ensemble of 3 students of the labels"
    assert reporter.learnt_by == [summary["learnt_by"]] == [learnt_by]
    assert json.loads((path / "student" / "card.json").read_text())["learnt_by"] == learnt_by
    assert f"| learnt by | {learnt_by} |" in (path / "student" / "README.md").read_text()
    bring_to_its_end(path, teacher, reporter)
    assert len(reporter.learnt_by) == 1  # nothing was trained


def test_a_run_on_labels_that_is_killed_while_an_ensemble_trains_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """It comes within the third of four trainings; once the student is kept, the disk holds none of the others."""
    summaries = []
    for name in ("whole", "killed"):
        teacher, path = FakeTeacher(disclosure="label"), tmp_path / name
        begin(path, tiny_config(), teacher)
        if name == "killed":
            with pytest.raises(Interrupted):
                bring_to_its_end(path, teacher, SilentReporter(interrupt="student"))
            members = sorted(file.name for file in (path / "checkpoints").iterdir())
            assert members == [f"student.member-{number}.safetensors" for number in range(2)]
        summaries.append(bring_to_its_end(path, teacher))
        assert list((path / "checkpoints").iterdir()) == []
        assert teacher.spent == 100
    assert equal_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"))
    assert summaries[0]["student_accuracy"] == summaries[1]["student_accuracy"]


@pytest.mark.parametrize("disclosure", ["probabilities", "top-k:2"])
def test_rejected_answers_are_paid_for_counted_and_taught_to_nobody(
    tmp_path: Path, disclosure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About a third of them, in every stage, some of them held out; the CVAE too learns from the others alone."""
    conditions: list[NDArray[np.int64]] = []
    train_cvae = cvae.train_cvae

    def spy(network: Any, config: Any, pool_nhwc: Any, classes_n: NDArray[np.int64], *rest: Any) -> None:
        conditions.append(classes_n)
        assert len(pool_nhwc) == len(classes_n)
        train_cvae(network, config, pool_nhwc, classes_n, *rest)

    monkeypatch.setattr(pipeline, "train_cvae", spy)
    teacher, path = FakeTeacher(disclosure=disclosure, rejects_below=80), tmp_path / "run"
    begin(path, tiny_config(), teacher)
    summary = bring_to_its_end(path, teacher)
    rejected = sum(digest[0] < 80 for digest in teacher.images_seen)
    in_pool = sum(digest[0] < 80 for digest in teacher.images_seen[:40])
    assert 0 < in_pool < rejected < 60
    assert summary["images"]["rejected"] == rejected
    assert summary["images"]["bought"] == summary["images"]["charged_by_server"] == 100
    assert f"; {rejected} of 100 answers were rejected and teach nothing" in summary["learnt_by"]
    assert [len(classes_n) for classes_n in conditions] == [40 - in_pool]
    assert min(conditions[0]) >= 0
    assert 0 < summary["agreement_images"] < 10
    assert torch.isfinite(weights_of(path)["dense1.weight"]).all()


def test_a_pool_that_is_rejected_whole_ends_the_run_before_more_is_bought(tmp_path: Path) -> None:
    teacher = FakeTeacher(rejects_below=256)
    begin(tmp_path / "run", tiny_config(), teacher)
    with pytest.raises(ConfigError, match="all 40 answers to the pool were rejected, so nothing more is bought"):
        bring_to_its_end(tmp_path / "run", teacher)
    assert teacher.spent == 40


def test_a_run_without_synthetic_images_baselines_and_held_out_answers(tmp_path: Path) -> None:
    config = tiny_config(
        synthesis={"images": 0},
        baselines={"student_alone": False, "standard_kd": False},
        evaluation={"held_out_fraction": 0},
    )
    teacher, reporter = FakeTeacher(budget=40), SilentReporter()
    begin(tmp_path / "run", config, teacher)
    summary = bring_to_its_end(tmp_path / "run", teacher, reporter)
    assert summary["images"]["by_phase"] == {"pool": 40, "mixup": 0, "cvae": 0}
    assert summary["images"]["planned"] == summary["images"]["in_audit_log"] == 40
    assert summary["baselines"] == {"student_alone": None, "standard_kd": None}
    assert (summary["agreement"], summary["agreement_on"], summary["agreement_images"]) == (None, "not measured", 0)
    assert reporter.trainings == ["student"]
    assert reporter.charged == [16, 16, 8]


def test_the_teachers_own_limit_cuts_batches_smaller(tmp_path: Path) -> None:
    teacher = FakeTeacher(images_per_request_max=10)
    begin(tmp_path / "run", tiny_config(synthesis={"images": 0}), teacher)
    bring_to_its_end(tmp_path / "run", teacher)
    assert [event.images for event in teacher.log if event.kind == "answer"] == [10, 10, 10, 10]


def test_equal_seeds_train_equal_students_and_other_seeds_others(tmp_path: Path, finished: Finished) -> None:
    for seed in (1, 2):
        begin(tmp_path / str(seed), tiny_config(seed=seed), FakeTeacher())
        bring_to_its_end(tmp_path / str(seed), FakeTeacher())
        assert equal_weights(weights_of(tmp_path / str(seed)), weights_of(finished[0])) is (seed == 1)


def write_owner_file(path: Path, **changes: str) -> Path:
    """What the owner of the fake teacher would hand over, or that with another field."""
    test = load_dataset("digits", "test")
    content = {
        "teacher": "fake",
        "version": "1",
        "dataset": "digits",
        "split": "test",
        "images_digest": batch_digest(image_digests(test.images_nhwc)),
    }
    probabilities_nk = answer_to(test.images_nhwc).astype(np.float32)
    write_teacher_answers(path, TeacherAnswers(**(content | changes), probabilities_nk=probabilities_nk))
    return path


def test_agreement_from_the_owners_file_and_back(tmp_path: Path) -> None:
    teacher, path, cpu = FakeTeacher(), tmp_path / "run", torch.device("cpu")
    begin(path, tiny_config(), teacher)
    first = bring_to_its_end(path, teacher)
    calls, owner_file = teacher.calls, write_owner_file(tmp_path / "answers.npz")
    with open_run(path) as folder:
        summary = pipeline.evaluate(folder, owner_file, cpu)
        assert folder.read_summary() == summary
    assert (summary["agreement_on"], summary["agreement_images"]) == (OWNER_FILE, 450)
    assert 0 <= summary["agreement"] <= 1
    assert summary["student_accuracy"] == first["student_accuracy"]
    assert json.loads((path / "student" / "card.json").read_text())["agreement_with_teacher"] == summary["agreement"]
    resumed = bring_to_its_end(path, teacher)  # has no owner's file at hand, and must not lose the better figure
    assert (resumed["agreement"], resumed["agreement_on"]) == (summary["agreement"], OWNER_FILE)
    with open_run(path) as folder:
        assert pipeline.evaluate(folder, None, cpu)["agreement"] == first["agreement"]
    assert teacher.calls == calls


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda path: write_owner_file(path, teacher="another"),
            "teacher another 1; .*bought from fake 1",
        ),
        (lambda path: write_owner_file(path, version="2"), "answers of teacher fake 2"),
        (lambda path: write_owner_file(path, images_digest="0" * 64), r"other images than digits \(test\)"),
        (lambda path: path.write_bytes(b"no npz"), "not a whole .npz file"),
        (lambda path: None, "cannot be read"),
    ],
    ids=["teacher", "version", "images", "damaged", "missing"],
)
def test_an_owners_file_about_something_else_is_refused(
    tmp_path: Path,
    finished: Finished,
    prepare: Callable[[Path], object],
    message: str,
) -> None:
    owner_file = tmp_path / "answers.npz"
    prepare(owner_file)
    before = (finished[0] / "summary.json").read_text()
    with open_run(finished[0]) as folder, pytest.raises(ConfigError, match=message) as caught:
        pipeline.evaluate(folder, owner_file, torch.device("cpu"))
    assert str(caught.value).count(str(owner_file)) == 1
    assert (finished[0] / "summary.json").read_text() == before


def test_an_unfinished_run_is_not_evaluated(tmp_path: Path) -> None:
    begin(tmp_path / "run", tiny_config(), FakeTeacher())
    with open_run(tmp_path / "run") as folder, pytest.raises(RunStoreError, match="no summary yet"):
        pipeline.evaluate(folder, None, torch.device("cpu"))


class Busy(FakeTeacher):
    """Another run buys under the same key whenever the log is read, ``times`` in all."""

    times = 2

    def events(self) -> Any:
        seen: list[Event] = list(self.log)
        if self.times:
            self.times -= 1
            self.charge_other_run(3)
        return iter(seen)


def test_a_purchase_by_another_run_during_the_audit_is_no_mismatch(
    finished: Finished,
) -> None:
    path, teacher, _ = finished
    busy = Busy(log=list(teacher.log))
    busy.log.pop()  # the create event that every fake begins with
    busy.append(kind="grant", images=50)
    with open_run(path) as folder:
        audit = audit_folder(folder, busy)
    assert audit.is_equal
    assert (audit.bought, audit.spent_by_other_runs) == (100, 36)


def test_an_audit_against_a_teacher_that_forgot_names_every_batch(
    finished: Finished,
) -> None:
    with open_run(finished[0]) as folder:
        audit = audit_folder(folder, FakeTeacher(budget=130))
    assert (audit.bought, audit.charged_by_server, audit.in_audit_log) == (100, 0, 0)
    assert len(audit.faults) == len([event for event in finished[1].log if event.kind == "answer"]) - 1
