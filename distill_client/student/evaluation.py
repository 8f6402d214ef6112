"""What a student predicts, and how well: against true labels, and against its teacher."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

# Bounds a batch and the network's activations on it: 1,024 images of up to 36x36x3, 27 of 224x224x3.
_BATCH_IMAGES = 1024
_BATCH_VALUES = 1 << 22


def predict_probabilities(
    network: nn.Module, images_nhwc: NDArray[np.uint8], batch_size: int | None = None
) -> NDArray[np.float32]:
    """Class probabilities_nk float32 of uint8 images_nhwc, computed in evaluation mode where the weights are.

    Raises ValueError where there are no images: only its answers tell how many classes a network has.
    """
    if len(images_nhwc) == 0:
        raise ValueError(f"images have shape {images_nhwc.shape}; at least one is needed to predict anything")
    batch_size = batch_size or min(_BATCH_IMAGES, max(1, _BATCH_VALUES // math.prod(images_nhwc.shape[1:])))
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    answers = []
    with torch.inference_mode():
        for start in range(0, len(images_nhwc), batch_size):
            batch = torch.tensor(images_nhwc[start : start + batch_size]).to(device)
            logits = network(batch.permute(0, 3, 1, 2).float().div_(255))
            answers.append(torch.softmax(logits, dim=1).cpu().numpy())
    network.train(was_training)
    return np.concatenate(answers)


def accuracy(probabilities_nk: NDArray[np.float32], truth_n: NDArray[np.int64]) -> float:
    """Fraction of images whose top class is the true one; raises ValueError when there is nothing to compare."""
    return _fraction_equal(probabilities_nk.argmax(axis=1), truth_n)


def agreement(student_nk: NDArray[np.float32], teacher: NDArray[np.float32] | NDArray[np.int64]) -> float:
    """Fraction of images that student and teacher give the same top class.

    The teacher's answers are probabilities_nk or, where it discloses no more, labels_n. Raises ValueError when there
    is nothing to compare.
    """
    teacher_n = teacher.argmax(axis=1) if teacher.ndim == 2 else teacher
    return _fraction_equal(student_nk.argmax(axis=1), teacher_n)


def _fraction_equal(left_n: NDArray[np.integer], right_n: NDArray[np.generic]) -> float:
    if left_n.shape != right_n.shape or len(left_n) == 0:
        raise ValueError(f"cannot compare {left_n.shape} classes with {right_n.shape}")
    return float(np.mean(left_n == right_n))
