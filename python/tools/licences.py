"""Writes the licences of the crates that are in the wheel.

Takes the output of `cargo metadata` on standard input. `cargo xtask wheel` runs this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SHIPPED = ("httppubsub-python", "httppubsub-cli")
FILES = ("LICENSE*", "LICENCE*", "COPYING*", "COPYRIGHT*", "NOTICE*", "UNLICENSE*")


def crates(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the packages that are compiled into what is shipped, apart from our own."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    ahead = [identity for identity, package in packages.items() if package["name"] in SHIPPED]
    reached = set(ahead)
    while ahead:
        for dependency in nodes[ahead.pop()]["deps"]:
            is_normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_normal and dependency["pkg"] not in reached:
                reached.add(dependency["pkg"])
                ahead.append(dependency["pkg"])
    own = set(metadata["workspace_members"])
    found = [packages[identity] for identity in reached - own]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def texts(package: dict[str, Any]) -> dict[str, str]:
    """Return the texts that come with a package, by the names of their files."""
    folder = Path(package["manifest_path"]).parent
    # Also of the library in C that some have in a folder.
    patterns = [place + name for place in ("", "*/") for name in FILES]
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {
        str(file.relative_to(folder)): file.read_text(errors="replace").strip()
        for file in sorted(files)
    }


def main() -> None:
    """Write all of it."""
    print("The wheel holds code of these crates, each under its own licence.")
    known: dict[str, str] = {}
    for package in crates(json.load(sys.stdin)):
        name = f"{package['name']} {package['version']}"
        print(f"\n{'=' * 80}\n{name}\n{package['license'] or 'see its files'}")
        if package["repository"]:
            print(package["repository"])
        for file, text in texts(package).items():
            # Many have the same text to the letter.
            print(f"\n--- {file}")
            print(f"As of {known[text]}." if text in known else text)
            known.setdefault(text, f"{name}, {file}")


if __name__ == "__main__":
    main()
