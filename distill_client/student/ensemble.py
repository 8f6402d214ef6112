"""Query-free amplification: what students of the same answers agree on teaches more than the answers do.

A label says which class, and nothing of how near the others were; and of few answers, even whole ones, each student
makes something else. So our student is trained thus, and no further query is spent:

1. ``ensemble`` students, with weights and orders of their own, each learn the bought answers, on blends of two bought
   images, x = s x1 + (1 - s) x2 with s ~ U(0, 1); of labels: ``-s log p_label1 - (1 - s) log p_label2``. Learning
   labels as they are makes a student far too sure of itself, and an ensemble of such students too.
2. Our student then trains on batches of the same images. A part of each, ``blended_fraction``, are such blends, which
   nobody asked the teacher about: their target is no mixture of answers but q, the mean of the members' probabilities
   for that very blend. The target of the others is ``label_share`` of the answer and the rest q, again of the very
   pixels, varied as they are. The loss is the cross-entropy with these targets; where an answer names some classes
   alone, its share of the target has the same tail (``losses``), and q, a whole distribution, has none.
3. With ``prior_correction`` all of them learn p_c ~ exp(z_c + log a_c - log b_c): a are the frequencies of the
   classes among all labels that are learnt from, b among those of the real images. What synthetic images do to how
   often a class is answered goes into a and b, which are then left out, and not into the student's logits z.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from distill_client.config import EnsembleConfig
from distill_client.student.augmentation import blend_within_batch
from distill_client.student.losses import Targets
from distill_client.student.stacking import networks_in


def prior_shift(labels_n: NDArray[np.int64], is_real_n: NDArray[np.bool_], classes: int) -> NDArray[np.float32]:
    """``log a - log b`` as above, float32 K, of the labels that are learnt from; each class is counted once more."""
    everywhere = np.bincount(labels_n, minlength=classes) + 1
    among_real = np.bincount(labels_n[is_real_n], minlength=classes) + 1
    shift_k = np.log(everywhere / everywhere.sum()) - np.log(among_real / among_real.sum())
    shifts_k: NDArray[np.float32] = shift_k.astype(np.float32)
    return shifts_k


@dataclass(frozen=True)
class Ensemble:
    """Trained members, in evaluation mode and on the device of the training that they teach.

    Each of ``networks`` is a member, or a ``Stack`` of several.
    """

    networks: Sequence[nn.Module]
    config: EnsembleConfig

    def probabilities(self, images_nchw: torch.Tensor, shift_k: torch.Tensor) -> torch.Tensor:
        """The mean of the members' class probabilities_nk, with ``shift_k`` added to the logits of each."""
        with torch.no_grad():
            return torch.cat([_opinions(net, images_nchw, shift_k) for net in self.networks], dim=1).mean(dim=1)

    def teach(
        self, images_nchw: torch.Tensor, targets: Targets, shift_k: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, Targets]:
        """Step 2 on a batch of float images_nchw and the targets that their labels give: what to train on instead."""
        blended = round(self.config.blended_fraction * len(images_nchw))
        if blended:
            blends_nchw, _, _ = blend_within_batch(images_nchw, generator)
            images_nchw = torch.cat([blends_nchw[:blended], images_nchw[blended:]])
        # Where an answer is taken as it is, the members' forward pass over its image would be for nothing.
        asked = len(images_nchw) if self.config.label_share < 1 else blended
        opinions_nk = torch.zeros_like(targets.named_nk)
        if asked:
            opinions_nk[:asked] = self.probabilities(images_nchw[:asked], shift_k)
        share_n1 = torch.full_like(targets.named_nk[:, :1], self.config.label_share)
        share_n1[:blended] = 0  # nobody has answered a blend
        return images_nchw, targets.beside(opinions_nk, share_n1)

    def weights(self) -> Iterator[bytes]:
        """The bytes of all members' weights, by which a checkpoint knows its ensemble."""
        for network in self.networks:
            for tensor in network.state_dict().values():
                yield tensor.cpu().contiguous().numpy().tobytes()


def _opinions(network: nn.Module, images_nchw: torch.Tensor, shift_k: torch.Tensor) -> torch.Tensor:
    """What each member in ``network`` thinks of the same images: N x members x K."""
    members = networks_in(network)
    logits_nk = network(images_nchw.repeat_interleave(members, dim=0))
    return torch.softmax(logits_nk + shift_k, dim=1).view(len(images_nchw), members, -1)
