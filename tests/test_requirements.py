"""The lists of packages agree: pyproject.toml allows, requirements*.txt choose."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, set[str]]:
    """Versions by name; every line but the comment and the project itself has to be exact."""
    versions: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("#") or line == "-e .":
            continue
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "==" and not requirement.url, line
        versions.setdefault(canonicalize_name(requirement.name), set()).add(pin.version)
    return versions


def test_every_range_ends():
    given = project()
    for line in (
        *given["dependencies"],
        *(x for extra in given["optional-dependencies"].values() for x in extra),
    ):
        assert any(pin.operator in ("<", "<=", "==") for pin in Requirement(line).specifier), line


@pytest.mark.parametrize(("name", "extra"), [("requirements.txt", ()), ("requirements-dev.txt", ("dev",))])
def test_what_is_chosen_is_allowed_and_complete(name, extra):
    given, versions = project(), locked(name)
    for line in (*given["dependencies"], *(x for key in extra for x in given["optional-dependencies"][key])):
        requirement = Requirement(line)
        chosen = versions[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in chosen), line


def test_tests_run_with_what_a_space_installs():
    space, tests = locked("requirements.txt"), locked("requirements-dev.txt")
    assert all(versions <= tests[name] for name, versions in space.items())


def test_lists_name_no_place_and_no_card():
    """Neither an index nor a folder, and nothing that a build of torch without a GPU does not ask for."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text and "--" not in text and "nvidia" not in text, name
