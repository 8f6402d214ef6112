import numpy as np
import pytest
import torch
from torch import nn

from distill_client.student.evaluation import accuracy, agreement, predict_probabilities


def test_probabilities_do_not_depend_on_the_batch_and_leave_the_mode_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    images = np.random.default_rng(0).integers(0, 256, size=(23, 2, 3, 2), dtype=np.uint8)
    images.setflags(write=False)
    whole, parts = (predict_probabilities(network, images, batch_size) for batch_size in (100, 5))
    assert whole.dtype == np.float32
    assert np.allclose(whole, parts, atol=1e-6)
    assert np.allclose(whole.sum(axis=1), 1, atol=1e-6)
    assert network.training


def test_accuracy_and_agreement_are_fractions() -> None:
    student = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], dtype=np.float32)
    assert accuracy(student, np.array([0, 1, 1, 1])) == 0.75
    assert agreement(student, np.array([0, 0, 0, 1])) == 0.75
    assert agreement(student, student[:, ::-1]) == 0.0
    assert agreement(student, student**2) == 1.0


def test_no_images_are_an_error_and_leave_the_mode_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(ValueError, match=r"images have shape \(0, 2, 3, 2\); at least one"):
        predict_probabilities(network, np.zeros((0, 2, 3, 2), np.uint8))
    assert network.training


def test_nothing_to_compare_is_an_error() -> None:
    student = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="cannot compare"):
        accuracy(student, np.zeros(2, dtype=np.int64))
    with pytest.raises(ValueError, match="cannot compare"):
        accuracy(student[:0], np.zeros(0, dtype=np.int64))


@pytest.mark.parametrize(("side", "largest"), [(28, 1024), (224, 27)])
def test_large_images_are_predicted_in_small_batches_and_all_of_them(side: int, largest: int) -> None:
    sizes: list[int] = []

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images_nchw: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images_nchw))
            return torch.stack([images_nchw.mean(dim=(1, 2, 3)) * self.scale, torch.zeros(len(images_nchw))], dim=1)

    count = largest + 5
    images = np.zeros((count, side, side, 3), np.uint8)
    images[-3:] = 255
    probabilities = predict_probabilities(Mean(), images)
    assert sizes == [largest, 5]
    assert np.flatnonzero(probabilities[:, 0] > 0.6).tolist() == [count - 3, count - 2, count - 1]
