from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distill_client.config import EnsembleConfig, LabelOnlyConfig
from distill_client.errors import RunStoreError
from distill_client.randomness import torch_generator
from distill_client.student.checkpoint import Checkpoint
from distill_client.student.ensemble import Ensemble, prior_shift
from distill_client.student.evaluation import agreement, predict_probabilities
from distill_client.student.lessons import Lessons
from distill_client.student.losses import Targets
from distill_client.student.training import train_student
from tests.distill_client.student.test_training import SCHEDULE, equal_weights, lessons, student

NO_SHIFT = torch.zeros(4)


def labelled(images: int = 200, **options: str) -> Lessons:
    """The fake teacher's lessons, with its top class alone."""
    soft = lessons(images, **options)
    return replace(soft, targets_nk=np.eye(4, dtype=np.float32)[soft.targets_nk.argmax(axis=1)])


def members(count: int = 2) -> list[nn.Module]:
    return [student(seed=10 + number).eval() for number in range(count)]


def batch(count: int = 8) -> tuple[torch.Tensor, Targets]:
    taught = labelled(count)
    images_nchw = torch.tensor(taught.images_nhwc).permute(0, 3, 1, 2).float().div(255)
    return images_nchw, Targets.of(taught.targets_nk)


@pytest.mark.parametrize(("fraction", "blended"), [(0.0, 0), (0.5, 4), (0.26, 2), (1.0, 8)])
def test_blends_are_what_the_ensemble_thinks_and_bought_images_a_share_of_their_label(
    fraction: float, blended: int
) -> None:
    images_nchw, targets = batch()
    ensemble = Ensemble(members(), LabelOnlyConfig(blended_fraction=fraction, label_share=0.3))
    taught_nchw, answers = ensemble.teach(images_nchw, targets, NO_SHIFT, torch_generator(1, "x"))
    assert torch.equal(taught_nchw[blended:], images_nchw[blended:])
    with torch.no_grad():
        one, other = (torch.softmax(network(taught_nchw), dim=1) for network in ensemble.networks)
    opinions_nk = (one + other) / 2
    assert torch.allclose(answers.named_nk[:blended], opinions_nk[:blended], atol=1e-6)
    expected_nk = 0.3 * targets.named_nk[blended:] + 0.7 * opinions_nk[blended:]
    assert torch.allclose(answers.named_nk[blended:], expected_nk, atol=1e-6)
    assert torch.allclose(answers.named_nk.sum(dim=1), torch.ones(8), atol=1e-5)
    assert not answers.named_nk.requires_grad
    for row in range(blended):  # of two images of the batch, the first of them its own
        difference = taught_nchw[row] - images_nchw[row]
        others = [images_nchw[other] - images_nchw[row] for other in range(8) if other != row]
        along = [float((difference * way).sum() / way.square().sum()) for way in others]
        assert any(
            0 <= share <= 1 and torch.allclose(difference, share * way, atol=1e-4)
            for share, way in zip(along, others, strict=True)
        )


def test_members_are_asked_about_no_image_whose_answer_is_taken_as_it_is() -> None:
    images_nchw, targets = batch()
    asked: list[int] = []
    network = student(seed=10).eval()
    network.register_forward_pre_hook(lambda _, images: asked.append(len(images[0])))
    ensemble = Ensemble([network], LabelOnlyConfig(blended_fraction=0.5, label_share=1.0))
    taught_nchw, answers = ensemble.teach(images_nchw, targets, NO_SHIFT, torch_generator(1, "x"))
    assert asked == [4]
    assert torch.equal(answers.named_nk[4:], targets.named_nk[4:])
    assert torch.allclose(answers.named_nk[:4], ensemble.probabilities(taught_nchw[:4], NO_SHIFT), atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_bought_answers_tail_stays_one_event_and_a_blends_target_is_whole(share: float) -> None:
    """Row by row, the loss is ``share`` of the answer's own, its tail's included, and the rest of the opinion's."""
    images_nchw, _ = batch()
    top_two_nk = lessons(8).targets_nk
    top_two_nk[np.argsort(top_two_nk, axis=1).argsort(axis=1) < 2] = np.nan
    answers = Targets.of(top_two_nk)
    ensemble = Ensemble(members(), EnsembleConfig(ensemble=2, blended_fraction=0.5, label_share=share))
    taught_nchw, taught = ensemble.teach(images_nchw, answers, NO_SHIFT, torch_generator(1, "x"))
    opinions = Targets(ensemble.probabilities(taught_nchw, NO_SHIFT))
    logits_nk = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    for row in range(8):
        one, told_by_answer = slice(row, row + 1), share if row >= 4 else 0.0
        own, opinion = (targets[one].cross_entropy(logits_nk[one]) for targets in (answers, opinions))
        expected = told_by_answer * own + (1 - told_by_answer) * opinion
        assert torch.allclose(taught[one].cross_entropy(logits_nk[one]), expected, atol=1e-5)


def test_an_ensemble_that_has_no_say_is_a_training_on_the_labels_alone() -> None:
    silent = Ensemble(members(), LabelOnlyConfig(blended_fraction=0.0, label_share=1.0))
    networks = []
    for ensemble in (None, silent):
        networks.append(student())
        taught = replace(labelled(augmentation="combination"), ensemble=ensemble)
        train_student(networks[-1], taught, SCHEDULE, torch_generator(1, "training"))
    assert equal_weights(*networks)


def test_a_student_learns_from_an_ensemble_what_its_members_know() -> None:
    """With no label of its own at all."""
    knowing = []
    for seed in (2, 3):
        knowing.append(student(seed=seed))
        train_student(knowing[-1], labelled(400), SCHEDULE, torch_generator(seed, "member"))
        knowing[-1].eval()
    taught = replace(
        labelled(400),
        targets_nk=np.full((400, 4), 0.25, np.float32),
        ensemble=Ensemble(knowing, LabelOnlyConfig(label_share=0.0)),
    )
    network = student()
    train_student(network, taught, SCHEDULE, torch_generator(1, "training"))
    unseen = lessons(300)
    assert agreement(predict_probabilities(network, unseen.images_nhwc), unseen.targets_nk) > 0.9


def test_the_shift_is_how_much_more_often_a_class_is_answered_than_among_real_images() -> None:
    labels_n = np.array([0] * 9 + [1] * 9 + [0] * 29 + [1] * 9, np.int64)
    is_real_n = np.arange(56) < 18
    shift_k = prior_shift(labels_n, is_real_n, 3)
    assert shift_k.dtype == np.float32
    everywhere, among_real = np.array([39, 19, 1]) / 59, np.array([10, 10, 1]) / 21
    assert np.allclose(shift_k, np.log(everywhere) - np.log(among_real), atol=1e-6)
    assert shift_k[0] > 0 > shift_k[1]
    assert np.allclose(prior_shift(labels_n, np.ones(56, bool), 3), 0)


def test_what_the_shift_explains_does_not_go_into_the_student() -> None:
    """Of images that all look the same, three in four are answered 0, among real ones one in four."""
    taught = Lessons(
        np.full((400, 28, 28, 1), 128, np.uint8),
        np.eye(4, dtype=np.float32)[np.repeat([0, 1, 2, 3], [300, 40, 30, 30])],
        prior_shift_k=np.log(np.array([0.75, 0.1, 0.075, 0.075]) / 0.25).astype(np.float32),
    )
    network = student()
    config = SCHEDULE.model_copy(update={"steps": 150, "batch_size": 200})
    train_student(network, taught, config, torch_generator(1, "training"))
    assert np.allclose(predict_probabilities(network, taught.images_nhwc[:1]), 0.25, atol=0.04)

    ensemble = Ensemble([network.eval()], LabelOnlyConfig())
    image_nchw = torch.full((1, 1, 28, 28), 128 / 255)
    assert taught.prior_shift_k is not None
    told = ensemble.probabilities(image_nchw, torch.tensor(taught.prior_shift_k))
    assert torch.allclose(told, torch.tensor([[0.75, 0.1, 0.075, 0.075]]), atol=0.05)


def test_a_checkpoint_knows_its_ensemble_and_its_shift(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "student.safetensors")
    short = SCHEDULE.model_copy(update={"steps": 2, "warmup_steps": 1})
    taught = replace(labelled(40), ensemble=Ensemble(members(), LabelOnlyConfig()))
    train_student(student(), taught, short, torch_generator(1, "training"), checkpoint)
    train_student(student(), taught, short, torch_generator(1, "training"), checkpoint)  # its own
    for other in (
        replace(taught, ensemble=None),
        replace(taught, ensemble=Ensemble(members(3), LabelOnlyConfig())),
        replace(taught, ensemble=Ensemble(members()[::-1], LabelOnlyConfig())),
        replace(taught, ensemble=Ensemble(members(), LabelOnlyConfig(label_share=0.4))),
        replace(taught, prior_shift_k=np.zeros(4, np.float32)),
    ):
        with pytest.raises(RunStoreError, match="another training"):
            train_student(student(), other, short, torch_generator(1, "training"), checkpoint)
