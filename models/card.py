"""The model card of a generator, and all other files that report its measurements."""

import json
from pathlib import Path
from typing import Any

from models.page import page

_TITLES = {
    "retrained": "retrained from scratch",
    "dihyfo": "**DiHyFo**",
    "dihyfo_unrefined": "DiHyFo without refinement",
    "logit_masking": "original, forgotten logits masked",
    "fine_tuning": "original, one epoch on the retain set",
    "nearest_mask": "zoo network of the nearest mask",
}


def card(name: str, config: dict[str, Any], audit: dict[str, Any]) -> str:
    """Return the Markdown of a card.

    Args:
        name: the generator's.
        config: ``generator.json``.
        audit: ``audit.json``.
    """
    data, classifier, training = config["dataset"], config["classifier"], config["training"]
    reference, timing = audit["reference"], audit["timing"]
    steps = config["sampler"]["steps"]
    again = training["recipe"]["twins"]
    twins = f", and {again} of the masks once more" if again else ""
    return f"""# {name}

Draws the weights of {_network(classifier)} ({classifier["parameters"]:,} weights)
for **{data["name"]}** that never learned the chosen classes and keeps the others.

- Classes: {", ".join(config["classes"])}.
- Data: {data["splits"]}.
- Samples: {data["n"]["train"]:,} training, {data["n"]["validation"]:,} validation,
  {data["n"]["test"]:,} test.
- DiHyFo: {config["dihyfo"]["parameters"]:,} parameters, sampled in
  {_counted(steps, "step")}. It learned from {training["networks"]:,} networks:
  {training["masks"]:,} masks x {_counted(training["zoo_seeds"], "data-order seed")}{twins}.
- Building it from nothing took {training["seconds"]["total"] / 60:.1f} minutes
  ({timing["machine"]}): {_parts(training["seconds"])}.

## Audit

Test split, {audit["held_out_masks"]} forget sets that DiHyFo never trained on, {audit["sample"]}.
Retrained networks have seeds of their own ({", ".join(map(str, reference["seeds"]))}); the gap is
the distance to their mean.

| weights | retain accuracy, mean (p5, worst) | gap in points, mean (worst) | forget accuracy, \
mean (max; share at 0) | forget accuracy after 4 relearning steps | loss-MIA AUC |
| --- | --- | --- | --- | --- | --- |
{_rows(audit)}

The original reaches {reference["original_accuracy"]:.4f} on all classes; retraining, over all
{reference["forget_sets"]:,} forget sets, {reference["retrained_retain_accuracy"]:.4f} on the
retained ones (worst forget set {reference["retrained_retain_accuracy_worst_forget_set"]:.4f}).

| milliseconds ({_counted(timing["threads"], "thread")}) | one | \
each of {timing["batch"]} in a batch |
| --- | --- | --- |
| retrain | {timing["retrain_one_ms"]:.0f} | |
| draw | {_took(timing["dihyfo_unrefined"])} |
| draw and refine ({config["refinement"]["steps"]} steps) | {_took(timing["dihyfo"])} |

{_verdicts(audit["verdicts"])}

{_likeness(audit["likeness"])}

Relearning: SGD, rate 0.05, batches of 128 images of all classes. Loss-MIA: forgotten classes'
training against test images, 0.5 = alike. Zero forget accuracy alone separates nothing: masking
logits has it for free. `audit.html` (a page with plots) and `audit.json` have the rest: relearning
curves, three conventions of membership inference, a linear probe, ensembles against retrained
ensembles, {_prompts(audit["alignment"])}figures by number of forgotten classes.

## What this does not prove

That no trace of the forgotten classes is left: the audit compares distributions of figures, and
an attack it does not run may see more. The generator itself was trained on networks that knew
every class, so **it still encodes the forgotten classes**: give away drawn weights, not the
generator.
"""


def write_report(folder: Path, name: str, config: dict[str, Any], audit: dict[str, Any]) -> None:
    """Write ``audit.json``, the card ``README.md`` and the page ``audit.html`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit.json").write_text(json.dumps(audit, indent=1, allow_nan=False) + "\n")
    (folder / "README.md").write_text(card(name, config, audit))
    (folder / "audit.html").write_text(page(name, config, audit))


def _network(classifier: dict[str, Any]) -> str:
    """Describe a classifier in a few words."""
    layers = "-".join(str(n) for n in classifier["layers"])
    if classifier["kind"] == "mlp":
        return f"an MLP {layers}"
    convs = ", ".join(
        f"{conv['channels']} of {conv['kernel']}x{conv['kernel']}"
        + (f" stride {conv['stride']}" if conv["stride"] > 1 else "")
        for conv in classifier["convolutions"]
    )
    return f"a CNN (convolutions {convs}; {classifier['then']}; linear {layers})"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _took(timing: dict[str, float]) -> str:
    return f"{timing['one_ms']:.3g} | {timing['each_in_batch_ms']:.3g}"


def _verdicts(verdicts: dict[str, Any]) -> str:
    lines = []
    for name, title in (("dihyfo", "As served"), ("dihyfo_unrefined", "Without refinement")):
        words = " ".join(
            verdicts[name][side]["words"] for side in ("under", "over", "distribution")
        )
        lines.append(f"- **{title}.** {words}")
    return "\n".join(lines)


def _prompts(alignment: dict[str, Any] | None) -> str:
    """Say how well loss prompts are met."""
    if alignment is None:
        return ""
    kinds = alignment["kinds"]
    r2 = ", ".join(
        f"{kind} {kinds[kind]['full']['mean_r2']:.3f} ({kinds[kind]['alone']['mean_r2']:.3f})"
        for kind in kinds
    )
    return f"prompt alignment (R2 with all losses given, in brackets with that one alone: {r2}), "


def _likeness(likeness: dict[str, Any]) -> str:
    """Say how unlike two samples are, beside two retrained networks."""
    pair, iou, near = (
        likeness[key] for key in ("pair_l2", "error_set_iou", "nearest_checkpoint_l2")
    )
    zoo = "The zoo was not at hand: how near its networks are was not measured."
    if near:
        zoo = f"""The nearest network of the zoo is {near["generated"]:.3f} away,
from a retrained network {near["retrained"]:.3f}."""
    return f"""Two samples of one forget set lie {pair["generated"]:.3f} apart (L2), two retrained
networks {pair["retrained"]:.3f}. Their errors on retained classes overlap (IoU) by
{iou["generated_generated"]:.3f}, those of two retrained networks by
{iou["retrained_retrained"]:.3f}, those of a sample and a retrained network by
{iou["generated_retrained"]:.3f}. {zoo}"""


def _parts(seconds: dict[str, float]) -> str:
    parts = [f"{part} {took:.0f} s" for part, took in seconds.items() if part != "total"]
    return ", ".join(parts)


def _rows(audit: dict[str, Any]) -> str:
    lines = []
    for name, row in audit["rows"].items():
        retain, gap, forget = (
            row[key] for key in ("retain_accuracy", "retain_gap_points", "forget_accuracy")
        )
        cells = [
            _TITLES[name],
            f"{retain['mean']:.4f} ({retain['p5']:.4f}, {retain['worst']:.4f})",
            f"{round(gap['mean'], 2) + 0.0:.2f} ({round(gap['worst'], 2) + 0.0:.2f})",
            f"{forget['mean']:.5f} ({forget['max']:.5f}; {forget['share_at_zero']:.1%})",
            f"{row['forget_accuracy_after_4_relearning_steps']:.3f}",
            f"{row['loss_mia_auc']:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
