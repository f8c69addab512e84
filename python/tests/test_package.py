"""The package as it is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import httppubsub
from httppubsub import testing

ROOT = Path(__file__).parents[2]


def test_one_version() -> None:
    cargo = (ROOT / "Cargo.toml").read_text()
    (version,) = re.findall(r'\[workspace\.package\]\nversion = "(.*)"', cargo)
    assert httppubsub.__version__ == version
    binary = os.environ.get(testing.BINARY_VARIABLE) or httppubsub.find_binary()
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.split()[:2] == ["httppubsub", version]


@pytest.mark.parametrize("name", ["httppubsubclient", "httppubsubserver"])
def test_two_distributions_only_depend_on_this_one(name: str) -> None:
    folder = ROOT / "python/distributions" / name
    assert [file.name for file in folder.iterdir()] == ["pyproject.toml"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    version = httppubsub.__version__
    assert (project["name"], project["version"]) == (name, version)
    assert project["dependencies"] == [f"httppubsub=={version}"]


def test_it_is_the_installed_package_that_is_tested() -> None:
    assert not Path(httppubsub.__file__).is_relative_to(ROOT / "python")


def test_the_module_is_the_command() -> None:
    try:
        binary = httppubsub.find_binary()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, "-m", "httppubsub", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == said.stdout


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for name in httppubsub.__all__:
        public = getattr(httppubsub, name)
        if isinstance(public, type) and not public.__doc__:
            missing.append(name)
    assert not missing
