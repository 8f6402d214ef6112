"""Runs that buy in rounds: until another one no longer pays, or what the student of the last one chooses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_client.config import RunConfig, TrainingConfig
from distill_client.contenders import train_contender
from distill_client.errors import ConfigError, TeacherUnavailable
from distill_client.flatness import Measurement, keep_measurements, read_measurements
from distill_client.material import Material
from distill_client.plan import draw_watched
from distill_client.results import load_contender
from distill_client.run_folder import open_run
from distill_client.stages.active_mixup import _candidates
from distill_client.stages.interim import shortened
from distill_client.stages.stage import Walk
from distill_client.student.evaluation import predict_probabilities
from distill_client.student.lessons import Lessons
from distill_client.synthesis.active import least_confident, shares
from distill_client.synthesis.mixup import mix_pairs
from shared.wire.images import image_digests
from tests.distill_client.fakes import (
    FakeTeacher,
    Interrupted,
    SilentReporter,
    begin,
    bring_to_its_end,
    tiny_config,
)
from tests.distill_client.pipeline.support import equal_weights, weights_of

STOPS_AFTER_TWO = {"policy": "until-flat", "rounds": 3, "least_gain": 100, "patience": 2, "interim_length": 0.2}
ROUNDS = ("pool", "views-1", "views-2")
QUICK = {"steps": 5, "batch_size": 32}
ALONE = {"student_alone": False, "standard_kd": False}


@pytest.mark.parametrize(
    ("steps", "warmup", "length", "shorter"),
    [(1000, 200, 0.5, (500, 100)), (3, 2, 0.3, (1, 0)), (5, 4, 0.5, (2, 1)), (1, 0, 0.1, (1, 0))],
)
def test_an_interim_schedule_is_a_legal_one(steps: int, warmup: int, length: float, shorter: tuple[int, int]) -> None:
    interim = shortened(TrainingConfig(steps=steps, warmup_steps=warmup), length)
    assert (interim.steps, interim.warmup_steps) == shorter
    assert TrainingConfig.model_validate(interim.model_dump()) == interim


def flat_config(**budget: Any) -> RunConfig:
    return tiny_config(
        synthesis={"method": "mixed-views", "images": 60},
        budget=STOPS_AFTER_TWO | budget,
        training=QUICK,
        baselines=ALONE,
        evaluation={"held_out_fraction": 0.2},
    )


def active_config() -> RunConfig:
    return tiny_config(
        synthesis={"method": "active-mixup", "images": 60, "active": {"candidates": 150}},
        budget={"rounds": 3},
        training=QUICK,
        baselines=ALONE,
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeTeacher, dict[str, Any]]:
    """A run that nothing disturbs, and that is flat after its second round of three; tests only read it."""
    path, teacher = tmp_path_factory.mktemp("rounds") / "run", FakeTeacher(budget=100)
    begin(path, flat_config(), teacher)
    return path, teacher, bring_to_its_end(path, teacher)


def test_a_run_that_is_flat_stops_and_says_what_the_rest_would_have_added(
    stopped: tuple[Path, FakeTeacher, dict[str, Any]],
) -> None:
    path, teacher, summary = stopped
    images, rounds = summary["images"], summary["rounds"]
    assert images["by_phase"] == {"pool": 40, "views-1": 20, "views-2": 20}
    assert images["not_bought"] == {"views-3": 20}
    assert images["planned"] == 100
    assert images["bought"] == images["charged_by_server"] == images["in_audit_log"] == teacher.spent == 80
    assert summary["audit"]["equal"]
    assert rounds["stopped_after"] == 2
    assert [one["bought"] for one in rounds["measured"]] == [60, 80]
    assert [one["held_out"] for one in rounds["measured"]] == [10, 10]
    assert [len(one["students"]) for one in rounds["measured"]] == [2, 3]
    assert (rounds["estimate"]["answers"], rounds["estimate"]["students"]) == (20, 3)
    assert 0 <= rounds["estimate"]["low"] <= rounds["estimate"]["points"] <= rounds["estimate"]["high"]
    card = json.loads((path / "student" / "card.json").read_text())
    assert card["rounds"] == rounds
    assert f"| bought in rounds | {rounds['sentence']} |" in (path / "student" / "README.md").read_text()


def test_what_a_round_added_is_measured_on_real_images_that_no_interim_student_was_taught(
    stopped: tuple[Path, FakeTeacher, dict[str, Any]],
) -> None:
    """From the kept students and the bought answers alone."""
    path, _, _ = stopped
    with open_run(path) as folder:
        pool = folder.labels.labelled("pool")
        watched = draw_watched(folder.config, Material(folder.config).plan.views)[:40]
        students = [load_contender(folder, f"interim-{number}", torch.device("cpu")) for number in range(3)]
        last = read_measurements(folder.measurements_path)[-1]
    teacher_n = pool.values[watched].argmax(axis=1)
    agrees = [predict_probabilities(net, pool.images_nhwc[watched]).argmax(axis=1) == teacher_n for net in students]
    assert last.agreeing == tuple(int(each.sum()) for each in agrees)
    assert (last.bought, last.held_out) == ((40, 60, 80), 10)
    assert (last.gained, last.lost) == (int((agrees[2] & ~agrees[1]).sum()), int((agrees[1] & ~agrees[2]).sum()))


@pytest.mark.parametrize("least_share", [0.5, 1.0])
def test_an_interim_student_learns_neither_the_images_it_is_measured_on_nor_views_of_them(
    least_share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And our own student learns all of them: what is held out of interim students is not lost."""
    learnt: dict[str, set[bytes]] = {}

    def spy(config: RunConfig, contender: str, lessons: Lessons, **others: Any) -> Any:
        learnt[contender] = set(image_digests(lessons.gather(np.arange(len(lessons)))))
        return train_contender(config, contender, lessons, **others)

    monkeypatch.setattr("distill_client.stages.interim.train_contender", spy)
    monkeypatch.setattr("distill_client.pipeline.train_contender", spy)
    config, teacher = flat_config(), FakeTeacher(budget=100)
    views = config.synthesis.views.model_copy(update={"least_share": least_share})
    synthesis = config.synthesis.model_copy(update={"views": views})
    nothing = config.evaluation.model_copy(update={"held_out_fraction": 0.0, "dataset": "digits"})
    config = config.model_copy(update={"synthesis": synthesis, "evaluation": nothing})
    begin(tmp_path / "run", config, teacher)
    bring_to_its_end(tmp_path / "run", teacher)
    plan = Material(config).plan.views
    with open_run(tmp_path / "run") as folder:
        bought = image_digests(folder.labels.labelled(*ROUNDS).images_nhwc)
    watched = draw_watched(config, plan)[:40]
    shown = [
        watched[first] or (least_share < 1 and watched[second])
        for first, second in zip(plan.first_n, plan.second_n, strict=True)
    ]
    unseen = {digest for digest, is_unseen in zip(bought, [*watched, *shown], strict=False) if is_unseen}
    assert 0.2 * 80 < len(unseen) < 0.6 * 80
    assert learnt["interim-0"] == set(bought[:40]) - unseen
    assert learnt["interim-2"] == set(bought) - unseen
    assert learnt["student"] == set(bought)


def test_a_run_that_stopped_needs_no_budget_for_what_it_decided_against(tmp_path: Path) -> None:
    teacher, path = FakeTeacher(budget=100), tmp_path / "run"
    begin(path, flat_config(), teacher)
    first = bring_to_its_end(path, teacher)
    teacher.charge_other_run(20)
    reporter = SilentReporter()
    again = bring_to_its_end(path, teacher, reporter)
    assert reporter.trainings == []
    assert again["rounds"] == first["rounds"]
    assert again["images"] == first["images"]
    assert again["audit"]["equal"]


@pytest.mark.parametrize("interrupted", ["interim-0", "interim-1", "interim-2", "student", ""])
def test_a_run_killed_anywhere_comes_to_the_same_decision(
    tmp_path: Path, stopped: tuple[Path, FakeTeacher, dict[str, Any]], interrupted: str
) -> None:
    """While a student trains, or in the middle of buying the second round."""
    lost = set() if interrupted else {6}
    teacher, path = FakeTeacher(budget=100, fails_after=lost), tmp_path / "run"
    begin(path, flat_config(), teacher)
    with pytest.raises((Interrupted, TeacherUnavailable)):
        bring_to_its_end(path, teacher, SilentReporter(interrupt=interrupted))
    summary = bring_to_its_end(path, teacher)
    assert teacher.spent == len(set(teacher.images_seen)) == 80
    assert {**summary["rounds"], **summary["images"]} == {**stopped[2]["rounds"], **stopped[2]["images"]}
    assert equal_weights(weights_of(path), weights_of(stopped[0]))


def test_a_decision_that_is_written_down_is_not_made_again(tmp_path: Path) -> None:
    """It was measured elsewhere, otherwise than would be here: the run that goes on keeps to it."""
    teacher, path = FakeTeacher(budget=100), tmp_path / "run"
    begin(path, flat_config(), teacher)
    with pytest.raises(Interrupted):
        bring_to_its_end(path, teacher, SilentReporter(interrupt="interim-2"))
    rose = Measurement(bought=(40, 60), held_out=10, agreeing=(0, 10), gained=10, lost=0)
    keep_measurements(path / "rounds" / "measured.json", [rose])
    summary = bring_to_its_end(path, teacher)
    assert summary["rounds"]["measured"][0]["gain"] == 100
    assert summary["rounds"]["stopped_after"] is None
    assert summary["images"]["bought"] == 100


def test_all_rounds_together_buy_what_is_bought_at_once_otherwise(tmp_path: Path) -> None:
    seen = []
    for name, config in (
        ("rounds", flat_config(patience=3)),
        ("at-once", flat_config(policy="spend-all")),
    ):
        teacher = FakeTeacher(budget=100)
        begin(tmp_path / name, config, teacher)
        summary = bring_to_its_end(tmp_path / name, teacher)
        assert "not_bought" not in summary["images"]
        assert ("rounds" in summary) is (name == "rounds")
        seen.append(set(teacher.images_seen))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"budget": {"policy": "until-flat", "watched_fraction": 0}},
            r"watched_fraction\s+Input should be greater than 0",
        ),
        ({"synthesis": {"method": "fs-bbt"}}, r"synthesis\.method is 'fs-bbt'; allowed with it.*: mixed-views"),
        ({"synthesis": {"method": "active-mixup"}}, r"synthesis\.method is 'active-mixup'; allowed with it"),
        ({"budget": {"policy": "until-flat", "rounds": 1}}, r"budget\.rounds is 1; at least 2 are needed"),
        ({"synthesis": {"method": "mixed-views", "images": 4}}, r"synthesis\.images is 4, .*budget\.rounds = 5;"),
        ({"budget": {"policy": "until-bored"}}, "Input should be 'spend-all' or 'until-flat'"),
    ],
)
def test_what_cannot_be_bought_until_it_is_flat_is_refused(changes: dict[str, Any], message: str) -> None:
    sections = {"budget": {"policy": "until-flat"}, "synthesis": {"method": "mixed-views"}}
    with pytest.raises(ValueError, match=message):
        tiny_config(**(sections | changes))


def test_rounds_that_no_real_image_is_watched_for_are_refused_before_anything_is_bought() -> None:
    config = tiny_config(
        synthesis={"method": "mixed-views"},
        budget={"policy": "until-flat", "rounds": 2, "watched_fraction": 0.01},
    )
    with pytest.raises(
        ConfigError, match=r"watched_fraction is 0\.01, which is none of pool\.images = 40; what a round"
    ):
        Material(config)


def test_active_mixup_buys_the_blends_that_the_last_student_is_least_sure_of(tmp_path: Path) -> None:
    teacher, path, reporter = FakeTeacher(budget=100), tmp_path / "run", SilentReporter()
    begin(path, active_config(), teacher)
    summary = bring_to_its_end(path, teacher, reporter)
    assert summary["images"]["by_phase"] == {"pool": 40, "active-1": 20, "active-2": 20, "active-3": 20}
    assert summary["images"]["charged_by_server"] == len(set(teacher.images_seen)) == 100
    assert reporter.trainings == ["interim-0", "interim-1", "interim-2", "student"]
    assert reporter.looked_at == dict.fromkeys(("active-1", "active-2", "active-3"), (150, 150))
    with open_run(path) as folder:
        material = Material(folder.config)
        candidates = _candidates(Walk(folder, material, reporter, torch.device("cpu")))
        assert len(candidates) == 150
        chosen = [np.load(folder.choice_path(number)) for number in (1, 2, 3)]
        student, grid = (
            load_contender(folder, "interim-1", torch.device("cpu")),
            shares(folder.config.synthesis.active),
        )
        bought = folder.labels.labelled("active-2").images_nhwc
    assert len({int(row) for rows in chosen for row in rows[:, 0]}) == 60  # no pair twice, under whatever share
    confidence_n, place_n = least_confident(student, material.pool.images_nhwc, candidates, grid)
    left = np.delete(np.arange(150), chosen[0][:, 0])
    assert confidence_n[chosen[1][:, 0]].max() <= np.delete(confidence_n[left], _places(left, chosen[1])).min()
    assert np.array_equal(chosen[1][:, 1], place_n[chosen[1][:, 0]])
    first_n, second_n = candidates[chosen[1][:, 0]].T
    wanted = np.concatenate(list(mix_pairs(material.pool.images_nhwc, first_n, second_n, grid[chosen[1][:, 1]])))
    assert np.array_equal(bought, wanted)


def _places(left: Any, chosen_n2: Any) -> list[int]:
    return [int(np.flatnonzero(left == candidate)[0]) for candidate in chosen_n2[:, 0]]


@pytest.mark.parametrize("interrupted", ["interim-1", "student"])
def test_active_mixup_killed_and_robbed_of_its_store_ends_the_same(tmp_path: Path, interrupted: str) -> None:
    """What was paid for is rendered again from the kept choices, and not paid for again."""
    whole, path = tmp_path / "whole", tmp_path / "killed"
    begin(whole, active_config(), FakeTeacher())
    bring_to_its_end(whole, FakeTeacher())
    teacher = FakeTeacher(budget=100)
    begin(path, active_config(), teacher)
    with pytest.raises(Interrupted):
        bring_to_its_end(path, teacher, SilentReporter(interrupt=interrupted))
    (path / "answers.sqlite").unlink()
    (path / "rounds" / "active-1.npy").write_bytes(b"a damaged file: it is chosen again, and the same")
    bring_to_its_end(path, teacher)
    assert teacher.spent == len(set(teacher.images_seen)) == 100
    assert equal_weights(weights_of(path), weights_of(whole))


def test_active_mixup_needs_as_many_pairs_as_it_is_to_choose() -> None:
    few = tiny_config(synthesis={"method": "active-mixup", "active": {"candidates": 59}})
    with pytest.raises(
        ConfigError, match=r"images is 60; .*images = 40 has 780 pairs, .*candidates is 59: at most 59"
    ):
        Material(few)
    small = tiny_config(synthesis={"method": "active-mixup"}, pool={"images": 10}, budget_images=70)
    with pytest.raises(ConfigError, match=r"pool\.images = 10 has 45 pairs, .* at most 45 can be chosen"):
        Material(small)
    with pytest.raises(ValueError, match=r"least_share is 0\.8, above most_share 0\.7"):
        tiny_config(synthesis={"active": {"least_share": 0.8}})


def test_no_interim_student_is_shown_an_image_of_the_test_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever students are asked before the last one is trained is asked about bought images."""
    seen: list[bytes] = []

    def spy(network: Any, images_nhwc: Any) -> Any:
        seen.extend(image_digests(images_nhwc))
        return predict_probabilities(network, images_nhwc)

    monkeypatch.setattr("distill_client.stages.interim.predict_probabilities", spy)
    teacher = FakeTeacher(budget=100)
    begin(tmp_path / "run", flat_config(), teacher)
    bring_to_its_end(tmp_path / "run", teacher)
    assert seen
    assert set(seen) <= set(teacher.images_seen)
