"""The catalog: which generators there are, read from their folders without torch.

A generator folder holds ``generator.json`` (what it is), ``weights.safetensors``
(DiHyFo), ``reference.npz`` (figures of retrained networks), ``audit.json`` (measured on
held-out masks), ``README.md`` (the card) and, where weights are guided, ``guidance.safetensors``.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("hyperforget.catalog")

FILES = ("generator.json", "weights.safetensors", "reference.npz", "audit.json")
_GUIDANCE = "guidance.safetensors"  # not every generator guides its weights
# Draws come from these; the others say how good they are, and change with a new audit.
DRAWN_FROM = ("generator.json", "weights.safetensors", _GUIDANCE)
_CONFIG_KEYS = (
    *("classes", "classifier", "normalize", "dataset", "sampler", "dihyfo", "training"),
    *("refinement", "prompts", "held_out"),
)
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """One published generator.

    Attributes:
        id: its name, and its folder's.
        config: ``generator.json``.
        audit: ``audit.json``.
        files: sha256 of each of its files.
        digest: sha256 over all of them.
    """

    id: str
    folder: Path
    config: dict[str, Any]
    audit: dict[str, Any]
    files: dict[str, str]
    digest: str

    @property
    def class_names(self) -> list[str]:
        names: list[str] = self.config["classes"]
        return names


class Catalog:
    """All generators under some folders; an earlier folder wins a name.

    A folder that is no whole generator is left out with a warning.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        for root in roots:
            # A root may be one generator, or hold several.
            folders = [root] if (root / FILES[0]).is_file() else sorted(root.glob("*/"))
            for folder in folders:
                if (folder / FILES[0]).is_file() and folder.name not in self.entries:
                    self._add(folder)

    def _add(self, folder: Path) -> None:
        try:
            self.entries[folder.name] = read(folder)
        except (OSError, ValueError) as error:
            log.warning("%s is not a whole generator, left out: %s", folder, error)


def read(folder: Path) -> Entry:
    """Read one generator folder.

    Raises:
        ValueError: a file is malformed or the name is not allowed.
        OSError: a file is missing.
    """
    if not NAME.fullmatch(folder.name):
        raise ValueError(f"a generator is named like digits-mlp, not {folder.name!r}")
    names = [*FILES, _GUIDANCE] if (folder / _GUIDANCE).exists() else FILES
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    digest = hashlib.sha256("".join(f"{n}:{sha}\n" for n, sha in files.items()).encode())
    config = json.loads((folder / "generator.json").read_bytes())
    audit = json.loads((folder / "audit.json").read_bytes())
    for document, keys in ((config, _CONFIG_KEYS), (audit, ("reference",))):
        missing = [key for key in keys if not isinstance(document, dict) or key not in document]
        if missing:
            raise ValueError(f"it says nothing of {', '.join(missing)}")
    return Entry(folder.name, folder, config, audit, files, digest.hexdigest())
