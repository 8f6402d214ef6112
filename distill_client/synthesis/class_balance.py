"""Equal numbers of every class among generated images, without a query: a student says what each of them shows.

DivBFKD (section 3.1) asks the teacher about every candidate and refuses what it has enough of. Here the refused ones
cost nothing, and the class is a student's opinion.
"""

import numpy as np
from numpy.typing import NDArray


def class_quotas(images: int, classes: int) -> NDArray[np.int64]:
    """How many images of each class, int64 K; the first classes have one more where it does not divide evenly."""
    quotas_k = np.full(classes, images // classes, dtype=np.int64)
    quotas_k[: images % classes] += 1
    return quotas_k


def choose_balanced(probabilities_nk: NDArray[np.float32], quotas_k: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of candidates, ascending, as many as the quotas' sum: of each class the first that are thought to show it.

    A class that has fewer than its quota gets, of the candidates that no class has taken, those that show it with the
    highest probability. ``probabilities_nk`` has a row for every candidate. Raises ValueError when there are fewer of
    them than are to be chosen.
    """
    if len(probabilities_nk) < quotas_k.sum():
        raise ValueError(f"{quotas_k.sum()} images cannot be chosen of {len(probabilities_nk)} candidates")
    top_n, is_chosen = probabilities_nk.argmax(axis=1), np.zeros(len(probabilities_nk), dtype=bool)
    missing_k = quotas_k.copy()
    for label, quota in enumerate(quotas_k.tolist()):
        first_n = np.flatnonzero(top_n == label)[:quota]
        is_chosen[first_n] = True
        missing_k[label] -= len(first_n)
    for label in np.flatnonzero(missing_k).tolist():
        left_n = np.flatnonzero(~is_chosen)
        by_probability = np.argsort(-probabilities_nk[left_n, label], kind="stable")
        is_chosen[left_n[by_probability[: missing_k[label]]]] = True
    return np.flatnonzero(is_chosen)
