import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distill_client.config import Tail
from distill_client.randomness import torch_generator
from distill_client.student.lessons import Lessons
from distill_client.student.losses import Loss, Targets, choose_loss, targets_for
from distill_client.student.training import train_student
from tests.distill_client.student.test_training import SCHEDULE, lessons, student

NAN = float("nan")


def some_answers(rows: int = 40, classes: int = 7, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=rows).astype(np.float32)


def some_logits(rows: int = 40, classes: int = 7, seed: int = 1) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(0, 3, (rows, classes)).astype(np.float32))


def top(probabilities_nk: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    values = probabilities_nk.copy()
    np.put_along_axis(values, np.argsort(-values, axis=1, kind="stable")[:, k:], np.float32(NAN), axis=1)
    return values


def targets_of(values: NDArray[np.float32] | NDArray[np.int64], tail: Tail, classes: int = 7) -> Targets:
    loss = choose_loss("told by the values", values, tail)
    return Targets.of(targets_for(loss, values, classes))


def loss_and_gradient(targets: Targets, logits_nk: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf = logits_nk.clone().requires_grad_()
    loss = targets.cross_entropy(leaf)
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return float(loss.detach()), leaf.grad


def assert_equal_lessons(one: Targets, other: Targets, atol: float = 1e-6) -> None:
    """Of the same student, loss and gradient are the same."""
    logits_nk = some_logits()
    (loss, gradient), (other_loss, other_gradient) = (loss_and_gradient(t, logits_nk) for t in (one, other))
    assert loss == pytest.approx(other_loss, abs=10 * atol)
    assert torch.allclose(gradient, other_gradient, atol=atol)
    assert float(gradient.abs().max()) > 1e-3


FULL_NK = some_answers()
FULL = Targets.of(FULL_NK)


def test_a_full_distribution_is_learnt_by_its_cross_entropy() -> None:
    logits_nk = some_logits()
    assert FULL.tails == ()
    assert torch.equal(FULL.cross_entropy(logits_nk), F.cross_entropy(logits_nk, torch.tensor(FULL_NK)))
    divergence = F.kl_div(F.log_softmax(logits_nk, dim=1), torch.tensor(FULL_NK), reduction="batchmean")
    entropy = -(FULL_NK * np.log(FULL_NK)).sum(axis=1).mean()
    assert float(FULL.cross_entropy(logits_nk)) == pytest.approx(float(divergence) + float(entropy), abs=1e-4)


@pytest.mark.parametrize("tail", ["lump", "spread"])
def test_top_k_of_all_classes_is_the_full_distribution(tail: Tail) -> None:
    assert_equal_lessons(targets_of(top(FULL_NK, 7), tail), FULL)


@pytest.mark.parametrize("tail", ["lump", "spread"])
def test_one_class_that_is_not_named_has_the_rest(tail: Tail) -> None:
    """Here the lumped loss itself is at work, and must come to the same."""
    taught = targets_of(top(FULL_NK, 6), tail)
    assert len(taught.tails) == (tail == "lump")
    assert_equal_lessons(taught, FULL)


def test_a_lumped_tail_of_no_class_adds_nothing() -> None:
    hides_one = top(FULL_NK, 6)
    hides_one[1:] = FULL_NK[1:]  # one row alone hides a class; the others have a tail of no class
    assert_equal_lessons(targets_of(hides_one, "lump"), FULL)
    assert torch.isfinite(loss_and_gradient(targets_of(hides_one, "lump"), 1e4 * some_logits())[1]).all()


def test_a_threshold_that_hides_nothing_is_the_full_distribution_and_another_hides_row_by_row() -> None:
    assert_equal_lessons(targets_of(np.where(FULL_NK < 0, np.float32(NAN), FULL_NK), "lump"), FULL)
    thresholded = np.where(FULL_NK < 0.1, np.float32(NAN), FULL_NK).astype(np.float32)
    named_n = (~np.isnan(thresholded)).sum(axis=1)
    assert len(set(named_n.tolist())) > 2
    logits_nk = some_logits()
    expected = [
        loss_and_gradient(targets_of(thresholded[row : row + 1], "lump"), logits_nk[row : row + 1])[0]
        for row in range(len(thresholded))
    ]
    assert loss_and_gradient(targets_of(thresholded, "lump"), logits_nk)[0] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("decimals", "atol"), [(6, 1e-5), (4, 1e-4)])
def test_rounded_answers_come_to_the_full_distribution_as_digits_are_added(decimals: int, atol: float) -> None:
    assert_equal_lessons(targets_of(np.round(FULL_NK, decimals), "lump"), FULL, atol)


def test_a_label_is_what_a_teacher_without_doubt_says() -> None:
    labels_n = FULL_NK.argmax(axis=1).astype(np.int64)
    certain = Targets.of(np.eye(7, dtype=np.float32)[labels_n])
    assert_equal_lessons(targets_of(labels_n, "lump"), certain)
    logits_nk = some_logits()
    own = F.cross_entropy(logits_nk, torch.tensor(labels_n))
    assert float(targets_of(labels_n, "lump").cross_entropy(logits_nk)) == pytest.approx(float(own), abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(k=st.integers(1, 7), seed=st.integers(0, 10_000))
def test_a_lumped_tail_is_one_event_more(k: int, seed: int) -> None:
    """Written out: the classes that are not named are summed, on both sides, into event k + 1."""
    answers_nk, logits_nk = some_answers(12, seed=seed), some_logits(12, seed=seed + 1)
    values = top(answers_nk, k)
    expected = torch.zeros((), dtype=torch.float64)
    leaf = logits_nk.double().requires_grad_()
    p_nk = torch.softmax(leaf, dim=1)
    for row, value in enumerate(values.astype(np.float64)):
        named = ~np.isnan(value)
        events = torch.cat([p_nk[row][torch.tensor(named)], p_nk[row][torch.tensor(~named)].sum()[None]])
        told = torch.tensor(np.append(value[named], max(0.0, 1 - value[named].sum())))
        expected = expected - torch.xlogy(told, events.clamp_min(1e-300)).sum() / len(values)
    expected.backward()  # type: ignore[no-untyped-call]
    loss, gradient = loss_and_gradient(targets_of(values, "lump"), logits_nk)
    assert loss == pytest.approx(float(expected.detach()), abs=1e-4)
    assert leaf.grad is not None
    assert torch.allclose(gradient.double(), leaf.grad, atol=1e-5)


def test_lumping_says_nothing_of_the_classes_in_the_tail_and_spreading_does() -> None:
    values = np.array([[0.6, 0.1, NAN, NAN, NAN, NAN, NAN]], np.float32)
    even = torch.log(torch.tensor([[0.6, 0.1, 0.06, 0.06, 0.06, 0.06, 0.06]]))
    uneven = torch.log(torch.tensor([[0.6, 0.1, 0.28, 0.005, 0.005, 0.005, 0.005]]))
    for logits_nk in (even, uneven):
        _, gradient = loss_and_gradient(targets_of(values, "lump"), logits_nk)
        assert torch.allclose(gradient, torch.zeros(1, 7), atol=1e-6)
    _, gradient = loss_and_gradient(targets_of(values, "spread"), uneven)
    assert float(gradient[0, 2]) > 0.2


@settings(deadline=None, max_examples=40)
@given(k=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_the_loss_of_a_blend_is_the_blend_of_the_losses(k: int, seed: int) -> None:
    """So the tails of two answers, which hide other classes each, never have to become one."""
    generator = torch_generator(seed, "blend")
    taught, logits_nk = targets_of(top(some_answers(seed=seed), k), "lump"), some_logits(seed=seed)
    partner, share_n1 = torch.randperm(40, generator=generator), torch.rand(40, 1, generator=generator)
    blended = taught.blended(partner, share_n1)
    for row in range(0, 40, 7):
        alone = slice(row, row + 1)
        own = float(taught[alone].cross_entropy(logits_nk[alone]))
        other = float(taught[partner[alone]].cross_entropy(logits_nk[alone]))
        expected = float(share_n1[row]) * own + (1 - float(share_n1[row])) * other
        assert float(blended[alone].cross_entropy(logits_nk[alone])) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_short_training_on_all_but_one_class_gives_the_weights_of_one_on_all() -> None:
    """Through the whole loop, blends and all; of four classes top-3 says everything, but by the lumped loss."""
    whole = lessons(96, augmentation="combination")
    config = SCHEDULE.model_copy(update={"steps": 12, "learning_rate": 1e-3})
    trained = []
    for targets_nk in (whole.targets_nk, top(whole.targets_nk, 4), top(whole.targets_nk, 3)):
        taught = Lessons(whole.images_nhwc, targets_nk, whole.augmentation)
        trained.append(student())
        train_student(trained[-1], taught, config, torch_generator(1, "training"))
    start, full, all_named, one_lumped = (network.state_dict() for network in (student(), *trained))
    for name, tensor in full.items():
        assert torch.equal(tensor, all_named[name])
        assert torch.allclose(tensor, one_lumped[name], atol=2e-4)
        assert not torch.allclose(tensor, start[name], atol=2e-4)


@pytest.mark.parametrize(
    ("disclosure", "values", "tail", "name"),
    [
        ("probabilities", FULL_NK, "lump", "distribution"),
        ("probabilities;decimals=2", np.round(FULL_NK, 2), "lump", "distribution"),
        ("top-k:7", FULL_NK, "lump", "distribution"),
        ("top-k:3", top(FULL_NK, 3), "lump", "lumped tail"),
        ("top-k:3", top(FULL_NK, 3), "spread", "spread tail"),
        ("probabilities", top(FULL_NK, 5), "lump", "lumped tail"),
        ("label", FULL_NK.argmax(axis=1).astype(np.int64), "lump", "labels"),
        ("label;noise=0.5", FULL_NK.argmax(axis=1).astype(np.int64), "spread", "labels"),
        ("label", top(FULL_NK, 1), "lump", "labels"),
    ],
)
def test_the_loss_is_chosen_from_disclosure_and_values(
    disclosure: str, values: NDArray[np.float32] | NDArray[np.int64], tail: Tail, name: str
) -> None:
    loss = choose_loss(disclosure, values, tail)
    assert loss == Loss(name, disclosure, taught=40, answers=40)  # type: ignore[arg-type]
    assert f"(disclosure {disclosure})" in loss.sentence
    assert "rejected" not in loss.sentence
    targets_nk = targets_for(loss, values, 7)
    assert np.isnan(targets_nk).any() == (name == "lumped tail")
    assert np.array_equal(np.nan_to_num(targets_nk).argmax(axis=1), FULL_NK.argmax(axis=1))


def test_rejected_answers_choose_no_loss_and_are_counted() -> None:
    probabilities_nk, labels_n = FULL_NK.copy(), FULL_NK.argmax(axis=1).astype(np.int64)
    probabilities_nk[[3, 5]], labels_n[[3, 5]] = np.float32(NAN), -1
    loss = choose_loss("probabilities", probabilities_nk, "lump")
    assert (loss.name, loss.taught, loss.answers) == ("distribution", 38, 40)
    assert loss.sentence.endswith("; 2 of 40 answers were rejected and teach nothing")
    assert choose_loss("label", labels_n, "lump").taught == 38
