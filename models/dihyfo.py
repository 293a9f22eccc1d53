"""DiHyFo, the diffusion hypernetwork: from noise and a mask to the weights of a classifier.

A diffusion transformer (Peebles & Xie, arXiv 2212.09748) over one token for each unit of
the classifier: the unit's incoming weights and bias. The tokens of the output layer are
the classes, and carry whether their class is retained. The network predicts the clean
weights x0; time enters through one shared adaLN (as in PixArt-alpha, arXiv 2310.00426).
Weights are centred on what a regression on the mask expects and scaled by one constant a layer.
"""

from dataclasses import dataclass
from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.classifiers import Classifier, Rows, unflatten
from models.regression import Regression

LEAST_LOSS = 1e-3  # nats; of smaller ones in a prompt the network sees this
_PROMPT_FEATURES = 16  # sine and cosine of 7 frequencies, and two kinds


@dataclass(frozen=True)
class Architecture:
    """Size of a DiHyFo. Wider ones learn the zoo's masks by heart (docs/science.md)."""

    width: int = 64
    blocks: int = 4
    heads: int = 4
    dropout: float = 0.1


def signal_and_noise(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine schedule's signal and noise level at times t in 0..1, shaped as t."""
    return torch.cos(pi / 2 * t), torch.sin(pi / 2 * t)


@dataclass(frozen=True)
class Prompt:
    """The losses that B networks are asked to have.

    DiHyFo-1 and DiHyFo-2 are two ways to fill it: with one loss for each side of the mask,
    or with one for each class. What is not asked for is NaN, and a network that is asked for
    nothing is to be as if retrained.

    Attributes:
        losses: in nats, (B, K) float32.
        sides: (B,) bool; true = a loss is the mean over its class's side (DiHyFo-1), false =
            it is the class's own (DiHyFo-2).
    """

    losses: Tensor
    sides: Tensor


def no_prompt(count: int, classes: int) -> Prompt:
    """Return a prompt that asks for nothing."""
    return Prompt(torch.full((count, classes), torch.nan), torch.zeros(count, dtype=torch.bool))


class DiHyFo(nn.Module):
    """Predict clean weights from noisy ones, the mask, the time and, if there is one, a prompt.

    Args:
        classifier: whose weights are generated; its layers give the tokens.
        architecture: the size of the transformer.
        regression: that weights are centred on.
    """

    def __init__(
        self, classifier: Classifier, architecture: Architecture, regression: Regression
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.architecture = architecture
        self.regression = regression
        width = architecture.width
        layers = classifier.layers
        tokens = sum(layer.units for layer in layers)
        self.read = nn.ModuleList(nn.Linear(layer.fan_in + 1, width) for layer in layers)
        self.expect = nn.ModuleList(nn.Linear(layer.fan_in + 1, width) for layer in layers)
        self.write = nn.ModuleList(_zero(nn.Linear(width, n.fan_in + 1)) for n in layers)
        # As large as the noise that is read, else the noise drowns mask and position.
        self.position = nn.Parameter(torch.randn(tokens, width))
        self.state = nn.Parameter(torch.randn(2, classifier.classes, width))
        self.asked = nn.Sequential(
            nn.Linear(_PROMPT_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(_Block(architecture) for _ in range(architecture.blocks))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("scale", torch.ones(len(layers)))
        for i, layer in enumerate(layers):
            self.register_buffer(f"spread{i}", torch.zeros(layer.units, layer.fan_in + 1))

    def forward(
        self,
        noisy: Rows,
        t: Tensor,
        masks: Tensor,
        centre: Rows,
        prompt: Prompt | None = None,
    ) -> Rows:
        """Predict x0.

        Args:
            noisy: standardised weights with noise, (B, units, fan_in + 1) a layer.
            t: time, (B,), 1 = pure noise.
            masks: (B, K) bool, true = retained.
            centre: what the weights are centred on, see `centre`; shaped as ``noisy``.
            prompt: for all B; default: none asks for a loss.

        Returns:
            Standardised clean weights, shaped as ``noisy``.
        """
        tables = zip(self.read, noisy, self.expect, centre, self.get_buffer("scale"), strict=True)
        # On views of one large tensor, matrix products are twice as slow as with a copy.
        parts = [
            read(layer.contiguous()) + expect(guess / scale)
            for read, layer, expect, guess, scale in tables
        ]  # (B, units, width) each
        classes = torch.arange(masks.shape[1])
        parts[-1] = parts[-1] + self.state[masks.long(), classes]  # (B, K, width)
        if prompt is not None:
            asked = ~prompt.losses.isnan().unsqueeze(2)  # (B, K, 1)
            parts[-1] = parts[-1] + asked * self.asked(_prompt_features(prompt))  # (B, K, width)
        h = torch.cat(parts, dim=1) + self.position  # (B, T, width)
        modulation = self.time(_time_features(t, h.shape[2])).unflatten(1, (6, -1))  # (B, 6, width)
        for block in self.blocks:
            h = block(h, modulation)  # (B, T, width)
        units = [layer.units for layer in self.classifier.layers]
        split = self.norm(h).split(units, dim=1)
        signal, noise = (s[:, None, None] for s in signal_and_noise(t))  # (B, 1, 1)
        clean = [write(part) for write, part in zip(self.write, split, strict=True)]
        if bool((t == 1).all()):  # noise alone: no deviation to keep
            return clean
        for i, mean in enumerate(clean):  # (B, units, fan_in + 1)
            spread = self.get_buffer(f"spread{i}")
            gain = signal * spread / (signal**2 * spread + noise**2 + 1e-8)  # 0 at t = 1
            clean[i] = mean + gain * (noisy[i] - signal * mean)
        return clean

    def standardise_on(self, rows: Rows, expected: Rows, variance: Tensor) -> None:
        """Take scale and spread from the zoo, (S, E, units, fan_in + 1) a layer.

        The scale is that of what the regression misses, ``expected`` (E, units, fan_in + 1).

        The spread is each weight's ``variance`` (P,) between the seeds of one mask, in
        standardised units. It says how much of a noisy weight's deviation to keep: the
        posterior mean if deviations were Gaussian; the transformer learns the rest. A
        token is wider than the transformer, so the noise cannot pass through it.
        """
        apart = unflatten(variance[None], self.classifier)  # (1, units, fan_in + 1) a layer
        for i, (layer, centre) in enumerate(zip(rows, expected, strict=True)):
            scale = (layer - centre).square().mean().sqrt()
            self.get_buffer("scale")[i] = scale
            self.get_buffer(f"spread{i}").copy_(apart[i][0] / scale**2)

    def centre(self, masks: Tensor, prompt: Prompt | None = None) -> Rows:
        """Return what weights are centred on, (B, units, fan_in + 1) a layer.

        The regression on the mask, (B, K) bool; for networks that are asked for losses, which
        it knows nothing of, the mean of the zoo.
        """
        flat: Tensor = self.regression(masks)  # (B, P)
        if prompt is not None:
            asked = ~prompt.losses.isnan().all(1)  # (B,)
            flat = torch.where(asked[:, None], self.regression.get_buffer("mean"), flat)
        return unflatten(flat, self.classifier)

    def standardise(self, rows: Rows, centre: Rows) -> Rows:
        """Return weights as the diffusion sees them."""
        return [
            (layer - middle) / self.get_buffer("scale")[i]
            for i, (layer, middle) in enumerate(zip(rows, centre, strict=True))
        ]

    def restore(self, rows: Rows, centre: Rows) -> Rows:
        """Undo `standardise`."""
        return [
            torch.addcmul(middle, layer, scale)
            for layer, middle, scale in zip(rows, centre, self.get_buffer("scale"), strict=True)
        ]

    def spread_out(self, rows: Rows) -> Rows:
        """Scale standard normal rows to the deviations between seeds of one mask."""
        return [
            layer * self.get_buffer(f"spread{i}").sqrt() * self.get_buffer("scale")[i]
            for i, layer in enumerate(rows)
        ]


class _Block(nn.Module):
    """Attention and MLP over the tokens, both gated and modulated by the time."""

    def __init__(self, size: Architecture) -> None:
        super().__init__()
        width, self.heads = size.width, size.heads
        self.offset = nn.Parameter(torch.zeros(6, width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(size.dropout)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (modulation + self.offset).unsqueeze(2).unbind(1)  # six of (B, 1, width)
        )
        x = self.norm1(h) * (1 + scale1) + shift1  # (B, T, width)
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, T, width / heads)
        h = h + (1 + gate1) * self.drop(self.out(x.transpose(1, 2).flatten(2)))
        x = self.norm2(h) * (1 + scale2) + shift2  # (B, T, width)
        out: Tensor = h + (1 + gate2) * self.drop(self.mlp(x))  # (B, T, width)
        return out


def _zero(linear: nn.Linear) -> nn.Linear:
    """Start from the zoo's mean: the first prediction is zero in standardised units."""
    nn.init.zeros_(linear.weight)
    return linear


def _prompt_features(prompt: Prompt) -> Tensor:
    """Return sines and cosines of the log losses, and which kind they are, (B, K, features)."""
    log = prompt.losses.nan_to_num(1.0).clamp(min=LEAST_LOSS).log()  # (B, K), -7 to about 3
    angle = log[..., None] * 2.0 ** torch.arange(-3, 4)  # (B, K, 7)
    side = prompt.sides[:, None, None].float().expand(*log.shape, 1)  # (B, K, 1)
    return torch.cat([angle.sin(), angle.cos(), side, 1 - side], dim=2)


def _time_features(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of t, (B, width)."""
    half = width // 2
    frequency = torch.exp(-log(10_000) * torch.arange(half) / half)  # (width / 2,)
    angle = 1_000 * t[:, None] * frequency  # (B, width / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
