"""What guidance gives, and what on how many images: a generator's draws beside retraining.

Prints the gap to retraining (mean over the held-out masks and the worst, test split, first sample,
nothing chosen, not refined) of the regression alone, of DiHyFo, and of DiHyFo guided by more and
more images, and the time of one draw in a batch of 200. Needs the networks that
`hyperforget train NAME` left in its home. Run: .venv/bin/python benchmarks/guidance.py
[cifar10-cnn] [--home .hyperforget] [--data ../shared/data]
"""

import argparse
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from models import generator
from models.build import PRESETS
from models.classifiers import Rows, unflatten
from models.guidance import Guidance, Guiding, foretell
from models.masks import retain_masks
from models.material import load_with_zoo
from models.measure import per_class
from models.sampler import first_noise, sample

IMAGES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="cifar10-cnn", choices=list(PRESETS))
    parser.add_argument("--home", type=Path, default=Path(".hyperforget"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    built = generator.load(options.home / "generators" / options.name, options.data)
    m, zoo = load_with_zoo(built, options.home / "build" / options.name)
    masks, where = retain_masks(m.held_out, built.dataset.classes), m.retrained.where(m.held_out)
    test, seeds = m.dataset.test, range(len(m.retrained.seeds))
    golds = [m.retrained.rows(seed, where) for seed in seeds]
    truth = torch.stack([per_class(m.classifier, r, test).over(masks)[0] for r in golds]).mean(0)
    noise = first_noise(m.classifier, range(len(masks)))
    many = np.resize(np.arange(len(masks)), 200)

    def gap(rows: Rows) -> str:
        apart = 100 * (truth - per_class(m.classifier, rows, test).over(masks)[0]).abs()  # (E,)
        return f"{apart.mean():.2f} ({apart.max():.2f})"

    def drawn(guidance: Guidance | None, at: np.ndarray) -> Rows:
        return sample(m.model, masks[at], noise[at], m.steps, None, guidance)

    def line(name: str, guidance: Guidance | None) -> None:
        found = drawn(guidance, np.arange(len(masks)))
        took = []
        for _ in range(5):
            began = time.perf_counter()
            drawn(guidance, many)
            took.append(1e3 * (time.perf_counter() - began) / len(many))
        print(f"| {name} | {gap(found)} | {np.median(took):.2f} |", flush=True)

    print(
        f"{options.name}, n = {len(masks)} held-out masks, references {list(m.retrained.seeds)}, "
        f"{platform.machine()}, 1 thread, torch {torch.__version__}\n\n"
        "| draw | gap in points (worst) | ms each of 200 |\n| --- | --- | --- |"
    )
    alone = unflatten(m.model.regression(masks), m.classifier)
    print(f"| regression alone | {gap(alone)} | |")
    line("DiHyFo", None)
    plain = PRESETS[options.name][1].guiding or Guiding()
    for images in IMAGES:
        how = replace(plain, images=images)
        line(f"guided by {images} a class", foretell(zoo, m.model, m.dataset.train, how))


if __name__ == "__main__":
    main()
