"""The lists of packages agree: pyproject.toml allows, requirements*.txt choose."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted(given: dict, *extras: str) -> list[Requirement]:
    """What the project with these extras asks for; an extra may ask for others."""
    found = [Requirement(line) for line in given["dependencies"]]
    found += [Requirement(line) for extra in extras for line in given["optional-dependencies"][extra]]
    own = [requirement for requirement in found if requirement.name == "dystyle"]
    rest = [requirement for requirement in found if requirement.name != "dystyle"]
    return rest + [other for requirement in own for other in wanted(given, *requirement.extras)]


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
    for requirement in wanted(given, *given["optional-dependencies"]):
        assert any(pin.operator in ("<", "<=", "==") for pin in requirement.specifier), requirement


@pytest.mark.parametrize(("name", "extra"), [("requirements.txt", "page"), ("requirements-dev.txt", "dev")])
def test_what_is_chosen_is_allowed_and_complete(name, extra):
    versions = locked(name)
    for requirement in wanted(project(), extra):
        chosen = versions[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in chosen), requirement


def test_a_page_is_installed_without_torch():
    assert not {"torch", "torchdiffeq", "scipy"} & locked("requirements.txt").keys()


def test_tests_run_with_what_a_space_installs():
    space, tests = locked("requirements.txt"), locked("requirements-dev.txt")
    assert all(versions <= tests[name] for name, versions in space.items())


def test_lists_name_no_place_and_no_card():
    """Neither an index nor a folder, and nothing that a build of torch without a GPU does not ask for."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text and "--" not in text and "nvidia" not in text, name
