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

from models.dihyfo import Prompt
from models.measure import PerClass
from models.zoo import Trajectories

Support = Mapping[str, Sequence[float]]  # "retained", "forgotten": (least, greatest) loss


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
        """Return a sentence for each loss that no network of the zoo had."""
        about, found = self._about(mask), []
        for name, loss in self.wanted().items():
            side = "retained" if mask[about[name]].all() else "forgotten"
            least, greatest = support[side]
            if not least <= loss <= greatest:
                found.append(
                    f"{name} {loss:g} lies outside the losses of {side} classes in the zoo, "
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


def support(trajectories: Trajectories) -> dict[str, Any]:
    """Return the losses that 99% of the checkpoints' classes lie in, for each side."""
    masks = trajectories.masks.expand(trajectories.loss.shape)  # (C, E, K)
    ends = {}
    for name, side in (("retained", masks), ("forgotten", ~masks)):
        losses = trajectories.loss[side].numpy()
        ends[name] = [float(f"{np.quantile(losses, q):.4g}") for q in (0.005, 0.995)]
    return ends
