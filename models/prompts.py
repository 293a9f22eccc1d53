"""Loss prompts: ask for networks of certain losses instead of the retrained one.

DiHyFo-1 is asked for the mean loss over the retained and over the forgotten classes,
DiHyFo-2 for a loss of each class. The paper's summary says only that the two condition on
different loss signals; this is our reading. Both are one DiHyFo here, told apart by a flag.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.dihyfo import LEAST_LOSS, Prompt
from models.measure import PerClass
from models.zoo import Trajectories

Support = Mapping[str, Any]  # what `support` returns


@dataclass(frozen=True)
class LossPrompt:
    """What one request asks for, in nats on unseen data; None or absent = not asked.

    Attributes:
        retain_loss, forget_loss: means over the samples of a side (DiHyFo-1).
        class_losses: label to loss (DiHyFo-2).
    """

    retain_loss: float | None = None
    forget_loss: float | None = None
    class_losses: Mapping[int, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.wanted())

    def wanted(self) -> dict[str, float]:
        """Return what is asked for by its name in a report."""
        sides = {"retain_loss": self.retain_loss, "forget_loss": self.forget_loss}
        by_class = {f"class_losses.{label}": loss for label, loss in self.class_losses.items()}
        return {name: loss for name, loss in sides.items() if loss is not None} | by_class

    def row(self, mask: Tensor) -> Tensor:
        """Return the loss asked of every class, (K,), NaN = none.

        Args:
            mask: (K,) bool, true = retained.
        """
        losses, about = torch.full(mask.shape, torch.nan), self._about(mask)
        for name, loss in self.wanted().items():
            losses[about[name]] = loss
        return losses

    def reached(self, measured: PerClass, mask: Tensor) -> dict[str, float]:
        """Return one network's losses by the names of `wanted`."""
        about = self._about(mask)
        return {name: measured.over(about[name][None])[1].item() for name in self.wanted()}

    def warnings(self, mask: Tensor, support: Support) -> list[str]:
        """Return a sentence for each loss that networks of the zoo did not have."""
        about, found = self._about(mask), []
        for name, loss in self.wanted().items():
            side = "retained" if mask[about[name]].all() else "forgotten"
            size = int(about[name].sum())
            ends, whose = support[side], f"{side} classes"
            if name in support and support[name][size - 1]:
                ends = support[name][size - 1]
                whose = f"{size} {side} classes together" if size > 1 else f"one {side} class alone"
            least, greatest = ends
            if not least <= loss <= greatest:
                found.append(
                    f"{name} {loss:g} lies outside the losses of {whose} in the zoo, "
                    f"{least:.3g} to {greatest:.3g}: expect the nearest of these at best"
                )
        return found

    def _about(self, mask: Tensor) -> dict[str, Tensor]:
        """Return the classes that each name of `wanted` is about, (K,) bool."""
        labels = torch.arange(len(mask))
        of_class = {f"class_losses.{label}": labels == label for label in self.class_losses}
        return {"retain_loss": mask, "forget_loss": ~mask} | of_class


def stack(prompts: Sequence[LossPrompt], masks: Tensor) -> Prompt:
    """Return B prompts as DiHyFo reads them; masks (B, K) bool."""
    return Prompt(
        torch.stack([prompt.row(mask) for prompt, mask in zip(prompts, masks, strict=True)]),
        torch.tensor([not prompt.class_losses for prompt in prompts]),
    )


def side_losses(loss: Tensor, masks: Tensor, n: Tensor) -> Tensor:
    """Return for each class the mean loss over the samples of its side of the mask, (B, K).

    Args:
        loss: of every class, (B, K).
        masks: (B, K) bool, true = retained.
        n: samples of each class, (K,).
    """
    result = torch.zeros_like(loss)
    for side in (masks, ~masks):
        weight = side * n  # (B, K)
        mean = (loss * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        result = torch.where(side, mean, result)
    return result


def support(trajectories: Trajectories) -> dict[str, Any]:
    """Return the losses that 99% of the zoo's checkpoints had, (least, greatest) each.

    Returns:
        ``retained``, ``forgotten``: of single classes. ``retain_loss``, ``forget_loss``: means
        over a side, an entry for each number of classes on it from 1 on; null = no network.
        What DiHyFo cannot tell apart counts as the least loss that it can.
    """
    masks = trajectories.masks.expand(trajectories.loss.shape)  # (C, E, K)
    means = side_losses(trajectories.loss.flatten(0, 1), masks.flatten(0, 1), trajectories.n)
    means = means.view(masks.shape)  # (C, E, K)
    ends: dict[str, Any] = {}
    for name, mean, side in (
        ("retained", "retain_loss", masks),
        ("forgotten", "forget_loss", ~masks),
    ):
        ends[name] = _ends(trajectories.loss[side])
        size = side.sum(2, keepdim=True)  # (C, E, 1)
        ends[mean] = [_ends(means[side & (size == n)]) for n in range(1, masks.shape[2])]
    return ends


def _ends(losses: Tensor) -> list[float] | None:
    if not len(losses):
        return None
    least, greatest = np.quantile(losses.numpy(), (0.005, 0.995))
    return [float(f"{max(end, LEAST_LOSS):.4g}") for end in (least, greatest)]
