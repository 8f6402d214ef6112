"""How a student learns from each kind of answer: which loss, chosen from what was disclosed, and the loss itself.

Every loss is one cross-entropy over disjoint events. Of an answer t and the student's probabilities p = softmax(z),
with D the classes whose probability is disclosed and m = 1 - sum_D t the mass that is not,

    loss = - sum_{c in D} t_c log p_c  -  m log sum_{c not in D} p_c

per image, and the mean over a batch. It is the divergence of p from t on these events plus t's entropy, which no
weight moves. What is disclosed decides what it comes to:

``distribution``  D is every class: the divergence of whole distributions. Rounded answers are taken as they are.
``lumped tail``   top-k and thresholded answers; D differs from row to row. The classes that are not named are one
                  event more, and nothing is said of which of them. With one class missing it is ``distribution``.
``spread tail``   the same answers, with m spread evenly over the classes that are not named; then D is every class.
``labels``        t is one-hot.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from distill_client.config import Tail
from distill_client.student.targets import answered_rows, targets_from_values, top_classes

LossName = Literal["distribution", "lumped tail", "spread tail", "labels"]

_SENTENCES: dict[LossName, str] = {
    "distribution": "the divergence from whole distributions",
    "lumped tail": "the divergence on the named classes, the others as one",
    "spread tail": "the divergence, with the mass of classes that are not named spread evenly over them",
    "labels": "cross-entropy with labels",
}


@dataclass(frozen=True)
class Loss:
    """Which loss was chosen, and for answers of which disclosure; ``taught`` of ``answers`` can be learnt from."""

    name: LossName
    disclosure: str
    taught: int
    answers: int

    @property
    def sentence(self) -> str:
        """The same in a line, for a log, a summary, a card."""
        rejected = self.answers - self.taught
        rest = f"; {rejected} of {self.answers} answers were rejected and teach nothing" if rejected else ""
        return f"{_SENTENCES[self.name]} (disclosure {self.disclosure}){rest}"


def choose_loss(disclosure: str, values: NDArray[np.float32] | NDArray[np.int64], tail: Tail) -> Loss:
    """The loss for answers ``values`` (float32 N x K, NaN where not disclosed, or int64 N) under a disclosure.

    The values decide where they say less than the disclosure: a third party's probabilities may leave out small ones.
    """
    taught_n = answered_rows(values)
    name: LossName = "distribution"
    if values.ndim == 1 or disclosure.partition(";")[0] == "label":
        name = "labels"
    elif np.isnan(values[taught_n]).any():
        name = "lumped tail" if tail == "lump" else "spread tail"
    return Loss(name, disclosure, int(taught_n.sum()), len(values))


def targets_for(loss: Loss, values: NDArray[np.float32] | NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Answers as ``Lessons`` hold them: float32 targets_nk, NaN where a class is part of a lumped tail.

    Raises ValueError as ``targets_from_values`` does; a rejected answer is none.
    """
    if loss.name == "labels":
        return targets_from_values(top_classes(values), classes)
    return targets_from_values(values, classes, "lump" if loss.name == "lumped tail" else "spread")


@dataclass(frozen=True)
class _Tails:
    """For each row the mass_n float32 of its classes hidden_nk (bool), of which only the sum is known."""

    mass_n: torch.Tensor
    hidden_nk: torch.Tensor

    def __getitem__(self, rows: torch.Tensor | slice) -> Self:
        return replace(self, mass_n=self.mass_n[rows], hidden_nk=self.hidden_nk[rows])

    def cross_entropy(self, log_probabilities_nk: torch.Tensor) -> torch.Tensor:
        # Not minus infinity: a row that hides nothing has mass 0, and 0 times the smallest number is 0, not NaN.
        lowest = torch.finfo(log_probabilities_nk.dtype).min
        log_sums_n = log_probabilities_nk.masked_fill(~self.hidden_nk, lowest).logsumexp(dim=1)
        return -(self.mass_n * log_sums_n).mean()


@dataclass(frozen=True)
class Targets:
    """What a batch is to be learnt as, on its device: named_nk float32, 0 where hidden, and the lumped tails.

    A blend of two images has two tails, of two sets of classes; where nothing is hidden there is none.
    """

    named_nk: torch.Tensor
    tails: tuple[_Tails, ...] = ()

    @classmethod
    def of(cls, targets_nk: NDArray[np.float32], device: torch.device | str = "cpu") -> Self:
        """From float32 targets_nk with NaN where a class is part of its row's tail."""
        hidden_nk = np.isnan(targets_nk)
        if not hidden_nk.any():
            return cls(torch.tensor(targets_nk).to(device))
        named_nk = np.where(hidden_nk, np.float32(0), targets_nk)
        missing_n = np.clip(1 - named_nk.sum(axis=1, dtype=np.float64), 0, None) * hidden_nk.any(axis=1)
        tails = _Tails(torch.tensor(missing_n).float().to(device), torch.tensor(hidden_nk).to(device))
        return cls(torch.tensor(named_nk).to(device), (tails,))

    def __getitem__(self, rows: torch.Tensor | slice) -> Self:
        return replace(self, named_nk=self.named_nk[rows], tails=tuple(tails[rows] for tails in self.tails))

    def blended(self, partner: torch.Tensor, share_n1: torch.Tensor) -> Self:
        """Each row share_n1 of its own answer and the rest of its partner's: the loss is linear in the answer."""
        tails = []
        for own in self.tails:
            other, share_n = own[partner], share_n1[:, 0]
            tails += [
                replace(own, mass_n=own.mass_n * share_n),
                replace(other, mass_n=other.mass_n * (1 - share_n)),
            ]
        named_nk = torch.lerp(self.named_nk[partner], self.named_nk, share_n1)
        return replace(self, named_nk=named_nk, tails=tuple(tails))

    def beside(self, opinions_nk: torch.Tensor, share_n1: torch.Tensor) -> Self:
        """Each row share_n1 of its own answer and the rest of a whole distribution opinions_nk, which has no tail."""
        tails = tuple(replace(own, mass_n=own.mass_n * share_n1[:, 0]) for own in self.tails)
        return replace(self, named_nk=torch.lerp(opinions_nk, self.named_nk, share_n1), tails=tails)

    def cross_entropy(self, logits_nk: torch.Tensor) -> torch.Tensor:
        """The loss at the top of this page, a scalar: the mean over the batch of the student's logits_nk."""
        loss = F.cross_entropy(logits_nk, self.named_nk)
        if self.tails:
            log_probabilities_nk = F.log_softmax(logits_nk, dim=1)
            for tails in self.tails:
                loss = loss + tails.cross_entropy(log_probabilities_nk)
        return loss
