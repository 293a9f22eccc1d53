"""How much faster a draw is than a retraining: the audit's timing, alone on the machine.

An audit that runs beside other work times it badly. Needs a generator and its data, no other
network. With --card the generator's report is written again with these times.
Run: .venv/bin/python benchmarks/draw_times.py [cifar10-cnn] [--threads 1] [--card]
"""

import argparse
import json
import sys

import torch

from core.catalog import Catalog
from core.settings import Settings
from models import datasets, generator
from models.audit import rounded, time_draws
from models.card import write_report
from models.material import effort_for, source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="cifar10-cnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--card", action="store_true")
    options = parser.parse_args()
    settings = Settings()
    entry = Catalog(settings.generator_roots).entries.get(options.name)
    if entry is None:
        sys.exit(f"there is no generator {options.name}")
    torch.set_num_threads(options.threads)
    try:
        loaded = generator.load(entry.folder, settings.data)
    except datasets.DataError as error:
        sys.exit(str(error))
    effort = effort_for(loaded.classifier, loaded.dataset)
    took = time_draws(source(loaded), effort.batch)
    retrain, plain = took["retrain_one_ms"], took["dihyfo_unrefined"]
    print(
        f"{options.name}: retraining {retrain:.0f} ms, seed 0, {took['machine']}, "
        f"{took['threads']} threads\n"
        f"one draw {retrain / plain['one_ms']:,.0f} times faster, refined "
        f"{retrain / took['dihyfo']['one_ms']:.1f}, of {took['batch']} together "
        f"{retrain / plain['each_in_batch_ms']:,.0f}"
    )
    if options.card:
        audited = json.loads((entry.folder / "audit.json").read_text())
        write_report(entry.folder, options.name, loaded.config, audited | {"timing": rounded(took)})


if __name__ == "__main__":
    main()
