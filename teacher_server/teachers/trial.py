"""Trying a network on sample images: what a server needs of it, and what its outputs are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shared.wire.images import Images
from teacher_server.teachers.bundle import BundleError
from teacher_server.teachers.classifier import ClassifierFault, NetworkClassifier, are_distributions
from teacher_server.teachers.forward import BatchRows, softmax

BATCH_DIFFERENCE_MAX = 1e-5
Outputs = Literal["logits", "probabilities"]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Trial:
    """What was found on the sample images."""

    sample_images: int
    batch_difference: float
    notes: tuple[str, ...]


def look_at_outputs(classifier: NetworkClassifier, images_nhwc: Images, where: str) -> Rows:
    """A network's outputs on the images, whatever they are; raises BundleError when they are no N x K numbers."""
    try:
        return classifier.outputs(images_nhwc)
    except ClassifierFault as error:
        raise BundleError(f"{where}: {error}; with these mean and std the images may be out of its range") from error
    except Exception as error:  # anything can come out of a network that is not made for these images
        raise BundleError(f"{where}: {_one_line(error)}") from error


def kind_of_outputs(outputs_nk: Rows) -> Outputs:
    """Probabilities when every row is non-negative and sums to one, else logits."""
    return "probabilities" if are_distributions(outputs_nk, tolerance=1e-4).all() else "logits"


def require_told_outputs(outputs_nk: Rows, told: Outputs, where: str) -> tuple[str, ...]:
    """Compare what the owner says the outputs are with what they look like; returns notes.

    Raises BundleError for outputs that cannot be probabilities.
    """
    found = kind_of_outputs(outputs_nk)
    if found == told:
        return ()
    if told == "probabilities":
        sums_n = outputs_nk.sum(axis=1)
        raise BundleError(
            f"{where}: outputs is 'probabilities', but they go from {outputs_nk.min():.4g} to {outputs_nk.max():.4g} "
            f"and rows sum to {sums_n.min():.4g} to {sums_n.max():.4g}; allowed are non-negative rows that sum to "
            "one, or --outputs logits"
        )
    return ("the outputs look like probabilities already; the softmax over them flattens every answer",)


def try_probabilities(
    outputs_of: Callable[[Images], Rows], outputs: Outputs, rows: BatchRows, images_nhwc: Images, where: str
) -> Trial:
    """Ask for every image alone, for all together and for all in another order; the answers must be the same.

    ``outputs_of`` gives what is still to get a softmax when ``outputs`` says logits. Raises BundleError.
    """

    def answers(images: Images) -> Rows:
        given = outputs_of(images)
        return softmax(given) if outputs == "logits" else given

    together_nk = answers(images_nhwc)
    if np.abs(answers(images_nhwc) - together_nk).max() > BATCH_DIFFERENCE_MAX:
        raise BundleError(
            f"{where}: the same images get other answers when asked again. Was it exported in training mode "
            "(dropout)? Call model.eval() first"
        )
    order = np.random.default_rng(1).permutation(len(images_nhwc))
    alone_nk = np.concatenate([answers(images_nhwc[index : index + 1]) for index in range(len(images_nhwc))])
    difference = float(
        max(np.abs(alone_nk - together_nk).max(), np.abs(answers(images_nhwc[order]) - together_nk[order]).max())
    )
    if difference > BATCH_DIFFERENCE_MAX:
        raise BundleError(
            f"{where}: an answer changes by up to {difference:.2g} with the other images of its batch; allowed is "
            f"{BATCH_DIFFERENCE_MAX:.0e}. Was it exported in training mode (batch norm)? Call model.eval() first"
        )
    return Trial(len(images_nhwc), difference, (*_about_rows(rows), *_about_answers(together_nk)))


def try_classifier(classifier: NetworkClassifier, images_nhwc: Images, where: str) -> Trial:
    """The same for a whole classifier, whose answers are probabilities. Raises BundleError."""
    look_at_outputs(classifier, images_nhwc, where)
    try:
        return try_probabilities(classifier.probabilities, "probabilities", classifier.rows, images_nhwc, where)
    except ClassifierFault as error:
        raise BundleError(f"{where}: {error}") from error


def _about_rows(rows: BatchRows) -> tuple[str, ...]:
    if rows.are_fixed and rows.most == 1:
        return (
            "it takes one image at a time, so every image is a forward of its own: slow; export it for any batch",
        )
    if rows.fewest > 1:
        return (
            f"it takes {rows.fewest} images at least, so fewer are filled up, at the cost of {rows.fewest}; export "
            "it for any batch",
        )
    return ()


def _about_answers(probabilities_nk: Rows) -> tuple[str, ...]:
    if len(probabilities_nk) > 1 and np.abs(probabilities_nk - probabilities_nk[0]).max() < 1e-6:
        return ("every sample image gets the same answer; are mean and std in 0..1, and the weights trained?",)
    return ()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
