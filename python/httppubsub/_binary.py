"""The command ``httppubsub`` that comes with the package."""

from __future__ import annotations

import os
import sys
import sysconfig


def find_binary() -> str:
    """Return the path of the command ``httppubsub``; FileNotFoundError if it was not installed."""
    name = "httppubsub" + (sysconfig.get_config_var("EXE") or "")
    package = os.path.dirname(os.path.abspath(__file__))
    folders = [
        sysconfig.get_path("scripts"),
        # Beside the interpreter, whatever its scheme says.
        os.path.dirname(sys.executable),
        sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user")),
        # `pip install --target` puts scripts beside the packages.
        os.path.join(os.path.dirname(package), "bin"),
    ]
    for folder in folders:
        path = os.path.join(folder, name) if folder else ""
        if path and os.path.isfile(path) and _is_binary(path):
            return path
    looked = ", ".join(dict.fromkeys(it for it in folders if it))
    raise FileNotFoundError(
        f"the command httppubsub was not installed with this package (looked in {looked}): "
        "a package that was built from source has only the library; "
        "`cargo install httppubsub-cli` builds the command"
    )


def _is_binary(path: str) -> bool:
    """Return ``True`` unless the file is a script that may lead back here."""
    with open(path, "rb") as file:
        return file.read(2) != b"#!"
