"""The audit as one page: audit.html, self-contained, for a phone too, dark and light."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from models.plots import dots, lines, number, scatter

TITLES = {
    "retrained": "retrained from scratch",
    "dihyfo": "DiHyFo, as served",
    "dihyfo_unrefined": "DiHyFo, not refined",
    "logit_masking": "original, forgotten logits masked",
    "fine_tuning": "original, one epoch on the retain set",
    "nearest_mask": "zoo network of the nearest mask",
}
_JUDGED = ("dihyfo", "dihyfo_unrefined")
_MAIN = ("retrained", *_JUDGED)
_KINDS = {
    "retain": "retain loss (DiHyFo-1)",
    "forget": "forget loss (DiHyFo-1)",
    "class": "one class's loss (DiHyFo-2)",
}

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#59636e;--line:#d8dee4;--card:#f6f8fa;
--retrained:#1b1f24;--dihyfo:#0969da;--dihyfo_unrefined:#c2410c;--logit_masking:#7c3aed;
--fine_tuning:#15803d;--nearest_mask:#a16207;--good:#15803d;--bad:#b42318}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--ink:#e6edf3;--soft:#9198a1;--line:#30363d;
--card:#161b22;--retrained:#e6edf3;--dihyfo:#58a6ff;--dihyfo_unrefined:#ff9e64;
--logit_masking:#bc8cff;--fine_tuning:#56d364;--nearest_mask:#e3b341;--good:#56d364;--bad:#ff7b72}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .4rem}
h3{font-size:1rem;margin:0}p{margin:.4rem 0}.soft,figcaption{color:var(--soft);font-size:.875rem}
.grid2{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr))}.card{min-width:0}
figure,.card{margin:0;padding:.9rem;background:var(--card);border:1px solid var(--line);
border-radius:.5rem}
.verdict{border-left:.3rem solid var(--good)}.verdict.found{border-left-color:var(--bad)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;width:100%;
font-variant-numeric:tabular-nums}
th,td{padding:.3rem .4rem;text-align:right;border-bottom:1px solid var(--line)}
td{white-space:nowrap}th:first-child,td:first-child{text-align:left;white-space:normal;
min-width:7rem;padding-left:0}
th{color:var(--soft);font-weight:600;vertical-align:bottom}
svg{display:block;width:100%;max-width:30rem;height:auto}
.grid{stroke:var(--line);stroke-width:1}.rule{stroke:var(--line);stroke-width:1;
stroke-dasharray:2 3}.ideal{stroke:var(--soft);stroke-dasharray:4 3}
.tick,.label{fill:var(--soft);font-size:11px}.label{fill:var(--ink)}
.line{fill:none;stroke-width:1.8}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;list-style:none;padding:0;margin:.4rem 0;
font-size:.875rem}.key i{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;
margin-right:.35rem}
.line.s-dihyfo_unrefined{stroke-dasharray:5 3}.line.s-retrained{stroke-width:2.4}
.dot.s-retrained{fill:var(--bg);stroke-width:2}
""" + "".join(
    f".line.s-{name},.dot.s-{name}{{stroke:var(--{name})}}"
    f".dot.s-{name}:not(.s-retrained){{fill:var(--{name})}}"
    f".key .s-{name}{{background:var(--{name})}}"
    for name in TITLES
)


def page(name: str, config: dict[str, Any], audit: dict[str, Any]) -> str:
    """Return the HTML of a report.

    Args:
        name: the generator's.
        config: ``generator.json``.
        audit: ``audit.json``.
    """
    title = f"Audit of {escape(name)}"
    data = config["dataset"]
    sections = [
        _verdicts(audit),
        _table(audit),
        _relearning(audit),
        _attacks(audit),
        _sizes(audit),
        _ensembles(audit),
        _likeness(audit),
        _alignment(audit),
        _timing(audit),
    ]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p class="soft">{escape(data["splits"])}; {audit["n"]["test_images"]:,} test images.
{audit["held_out_masks"]} forget sets that DiHyFo never trained on; {escape(audit["sample"])}.
Everything stands beside networks retrained from scratch with data orders of their own
(seeds {escape(", ".join(map(str, audit["reference"]["seeds"])))}).</p>
{_key(TITLES)}
{"".join(sections)}
<h2>What this does not prove</h2>
<p>That no trace of the forgotten classes is left: an attack that is not run here may see more.
The generator itself learned from networks that knew every class and still encodes them: give
away drawn weights, not the generator.</p>
</body></html>
"""


def _key(names: Iterable[str]) -> str:
    items = "".join(f'<li><i class="s-{name}"></i>{escape(TITLES[name])}</li>' for name in names)
    return f'<ul class="key">{items}</ul>'


def _verdicts(audit: dict[str, Any]) -> str:
    cards = []
    for name in _JUDGED:
        judged = audit["verdicts"][name]
        sides = "".join(
            f"<p>{escape(judged[side]['words'])}</p>" for side in ("under", "over", "distribution")
        )
        rows = [
            [
                one["figure"],
                number(one["value"]),
                number(one["retrained"]),
                number(one["tolerance"]),
                str(one["masks"]),
                one["shows"] or "-",
            ]
            for one in judged["evidence"]
        ]
        evidence = _html_table(
            ("evidence", "value", "retrained", "tolerance", "masks", "shows"), rows
        )
        found = any(judged[side]["found"] for side in ("under", "over", "distribution"))
        mark = "verdict found" if found else "verdict"
        cards.append(f'<div class="card {mark}"><h3>{TITLES[name]}</h3>{sides}{evidence}</div>')
    return (
        f'<h2>Verdict</h2><div class="grid2 pair">{"".join(cards)}</div>'
        f"<p class='soft'>A distance to retrained networks counts when it is beyond the tolerance, "
        f"which is never below twice the standard deviation between their own seeds.</p>"
    )


def _table(audit: dict[str, Any]) -> str:
    rows = []
    for name, row in audit["rows"].items():
        retain, gap, forget = (
            row[key] for key in ("retain_accuracy", "retain_gap_points", "forget_accuracy")
        )
        worst = row["worst_mask"]
        rows.append(
            [
                TITLES[name],
                f"{row['networks']:,}",
                f"{retain['mean']:.4f}",
                _points(gap["mean"]),
                _points(worst["retain_gap_points"]),
                " ".join(map(str, worst["forget"])),
                f"{forget['mean']:.5f}",
                f"{forget['max']:.4f}",
                f"{forget['share_at_zero']:.1%}",
                f"{row['forget_loss']:.2f}",
            ]
        )
    columns = (
        "weights",
        "networks",
        "retain accuracy",
        "gap, points",
        "worst mask's",
        "which forgets",
        "forget accuracy",
        "max",
        "at 0",
        "forget loss",
    )
    return f"<h2>Accuracy</h2>{_html_table(columns, rows)}"


def _points(gap: float) -> str:
    return f"{round(gap, 2) + 0.0:.2f}"  # no -0.00


def _relearning(audit: dict[str, Any]) -> str:
    rows, n = audit["rows"], audit["n"]
    steps = rows["retrained"]["relearning"]["steps"]
    series = {name: row["relearning"]["forget_accuracy"] for name, row in rows.items()}
    plot = lines(steps, series, x_title="SGD steps on all classes", about="relearning curve")
    return _section(
        "Relearning",
        "What was only hidden comes back at once. SGD, rate 0.05, batches of 128 images.",
        [
            (
                "Accuracy on forgotten classes",
                plot,
                f"{n['attacked_masks']} masks, {n['relearning_seeds']} batch orders, "
                f"{n['relearning_test_images']:,} test images",
            )
        ],
        tuple(rows),
    )


def _attacks(audit: dict[str, Any]) -> str:
    rows, n = audit["rows"], audit["n"]
    shown = {name: rows[name] for name in rows if name != "fine_tuning"}
    mia = {
        "SSD": {name: row["mia"]["ssd"] for name, row in shown.items()},
        "SalUn": {name: row["mia"]["salun"] for name, row in shown.items()},
        "Kodge": {name: row["mia"]["kodge"] for name, row in shown.items()},
    }
    auc = {"loss AUC": {name: row["loss_mia_auc"] for name, row in shown.items()}}
    probe = {"linear probe": {name: row["linear_probe"]["mean"] for name, row in shown.items()}}
    images = f"{n['mia_judged_images']} images of a kind at most"
    return _section(
        "Attacks",
        "Membership inference has three conventions, each with its own number: SSD gives the share "
        "of forgotten training images called members (logistic regression on entropy), SalUn and "
        "Kodge the share called non-members (SVC on confidence; SalUn's non-members are retained "
        "test images, Kodge's are of all classes). None means anything but beside retrained.",
        [
            (
                "Membership inference, by convention",
                dots(mia, about="MIA by convention"),
                f"{n['probed_masks']} masks, {images}",
            ),
            (
                "Loss-MIA, AUC; 0.5 = alike",
                dots(auc, about="loss MIA"),
                f"{n['attacked_masks']} masks, members among {n['mia_training_images']:,} "
                "training images",
            ),
            (
                "Forgotten classes read off hidden features",
                dots(probe, about="linear probe"),
                f"{rows['retrained']['linear_probe']['masks']} masks of two forgotten classes or "
                "more; accuracy on test",
            ),
        ],
        tuple(shown),
    )


def _sizes(audit: dict[str, Any]) -> str:
    rows = {name: audit["rows"][name] for name in _MAIN}
    sizes = [one["forgotten"] for one in rows["retrained"]["by_size"]]
    masks = ", ".join(str(one["masks"]) for one in rows["retrained"]["by_size"])
    plots = []
    for key, title, zero in (
        ("retain_gap_points", "Retain gap to retrained, points", True),
        ("forget_accuracy", "Forget accuracy, the worst mask's", True),
        ("relearned", "Forget accuracy after 4 relearning steps", True),
        ("loss_mia_auc", "Loss-MIA AUC", False),
        ("forget_loss", "Forget loss, nats", False),
    ):
        series = {name: [one[key] for one in row["by_size"]] for name, row in rows.items()}
        plot = lines(sizes, series, x_title="forgotten classes", about=title, zero=zero)
        plots.append((title, plot, f"masks: {masks}"))
    return _section("By number of forgotten classes", "", plots, _MAIN)


def _ensembles(audit: dict[str, Any]) -> str:
    ensembles = audit["ensembles"]
    plots = []
    for key, title in (
        ("forgetting_score", "NeurIPS'23 forgetting score; higher = more alike"),
        ("klom_forget", "KLOM on forgotten images, nats; 0 = alike"),
        ("klom_retain", "KLOM on retained images, nats; 0 = alike"),
        ("tow", "ToW; 1 = accuracies alike"),
    ):
        rows = {
            f"forget {_short(mask['forget'])}": {name: mask["rows"][name][key] for name in _MAIN}
            for mask in ensembles["masks"]
        }
        plots.append(
            (
                title,
                dots(rows, about=title),
                f"{ensembles['networks']} against "
                f"{ensembles['networks']} networks a mask, {ensembles['images']} images at most",
            )
        )
    return _section(
        "Many samples against many retrained networks",
        "Retrained networks of seeds that nothing else uses. Their own row is other retrained "
        "networks against them: the noise floor, which is what can be reached.",
        plots,
        _MAIN,
    )


def _short(labels: Sequence[int]) -> str:
    """Name a forget set in the width of a plot's label."""
    return " ".join(map(str, labels)) if len(labels) <= 4 else f"{len(labels)} classes"


def _likeness(audit: dict[str, Any]) -> str:
    ours, plain = audit["likeness"], audit["likeness_unrefined"]
    n = f"{ours['masks']} masks"

    def of(key: str) -> dict[str, float]:
        return {
            "retrained": ours[key]["retrained"],
            "dihyfo": ours[key]["generated"],
            "dihyfo_unrefined": plain[key]["generated"],
        }

    iou = {
        "two of a kind": {
            "retrained": ours["error_set_iou"]["retrained_retrained"],
            "dihyfo": ours["error_set_iou"]["generated_generated"],
            "dihyfo_unrefined": plain["error_set_iou"]["generated_generated"],
        },
        "with retrained": {
            "retrained": ours["error_set_iou"]["retrained_retrained"],
            "dihyfo": ours["error_set_iou"]["generated_retrained"],
            "dihyfo_unrefined": plain["error_set_iou"]["generated_retrained"],
        },
    }
    distances, zoo = {"pair": of("pair_l2")}, "the zoo was not at hand"
    if ours["zoo_networks"]:
        distances["nearest in zoo"] = of("nearest_checkpoint_l2")
        zoo = f"zoo of {ours['zoo_networks']:,} networks"
    return _section(
        "Copied, or always the same?",
        "A generator may copy its checkpoints or draw one network again and again.",
        [
            (
                "Distance of weights (L2)",
                dots(distances, about="distances", zero=True),
                f"{n}; pairs of one mask; {zoo}",
            ),
            ("Overlap of errors on retained test images (IoU)", dots(iou, about="IoU"), n),
        ],
        _MAIN,
    )


def _alignment(audit: dict[str, Any]) -> str:
    found = audit["alignment"]
    if found is None:
        return "<h2>Loss prompts</h2><p>This generator was trained without prompts.</p>"
    n = f"{found['masks']} held-out masks x {found['prompts']} even prompts"
    plots = []
    for kind in ("retain", "forget"):
        points = {
            name: [
                pair
                for one in found["points"][kind]
                for pair in zip(one["prompted"], one["reached"][row], strict=True)
            ]
            for name, row in (("retrained", "retrained"), ("dihyfo_unrefined", "full"))
        }
        plot = scatter(points, x_title="prompted, nats", about=f"prompted and reached {kind} loss")
        plots.append((f"Reached {_KINDS[kind]}", plot, n))
    rows = [
        [_KINDS[kind], str(of["n"])]
        + [
            f"{of[row][key]:.3f}"
            for row in ("full", "alone", "retrained")
            for key in ("mean_r2", "least_r2")
        ]
        for kind, of in found["kinds"].items()
    ]
    columns = (
        "prompt",
        "n",
        "R2, all losses given",
        "least",
        "R2, that one alone",
        "least",
        "R2, the run itself",
        "least",
    )
    return _section(
        "Loss prompts",
        "Prompts are validation losses, evenly spread between the best and the starting loss of a "
        "reference run; the other losses are what that run has beside. Results are test losses "
        f"({found['images']:,} images), one sample each, not refined. The run itself is what a "
        "trained network reaches on test.",
        plots,
        ("retrained", "dihyfo_unrefined"),
    ) + _html_table(columns, rows)


def _timing(audit: dict[str, Any]) -> str:
    timing = audit["timing"]
    retrain = timing["retrain_one_ms"]
    rows = [["retrain one network", f"{retrain:,.0f}", "1"]]
    for name in _JUDGED:
        for key, what in (("one_ms", "one"), ("each_in_batch_ms", f"each of {timing['batch']}")):
            took = timing[name][key]
            rows.append([f"{TITLES[name]}: {what}", f"{took:,.3g}", f"{retrain / took:,.0f}"])
    table = _html_table(("", "milliseconds", "times faster"), rows)
    return (
        f"<h2>Time</h2><p class='soft'>{escape(timing['machine'])}, threads: "
        f"{timing['threads']}.</p>{table}"
    )


def _section(
    title: str, text: str, plots: Sequence[tuple[str, str, str]], names: Iterable[str]
) -> str:
    figures = "".join(
        f"<figure><h3>{escape(what)}</h3>{svg}<figcaption>n: {escape(n)}</figcaption></figure>"
        for what, svg, n in plots
        if svg
    )
    return (
        f"<h2>{escape(title)}</h2><p class='soft'>{escape(text)}</p>{_key(names)}"
        f'<div class="grid2">{figures}</div>'
    )


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
