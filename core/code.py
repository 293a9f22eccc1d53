"""Which code runs here."""

import subprocess
from importlib.metadata import version

from core.settings import REPOSITORY


def versions() -> dict[str, str | None]:
    """Return the package's version, and its git commit where it runs from a checkout.

    A commit that ends in ``-dirty`` had uncommitted changes.
    """
    return {"hyperforget": version("hyperforget"), "commit": _commit()}


def _commit() -> str | None:
    # An installed package may lie inside some other repository.
    if not (REPOSITORY / ".git").exists():
        return None
    describe = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        said = subprocess.run(
            [*describe, "--exclude=*"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()
