"""Writes docs/licences.md: what an installation of troupe brings along, and under which licence.

python docs/licences.py     in an environment that has what is to be listed
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

DOCS = Path(__file__).parent
HEAD = """# Licences of dependencies

This project is under the MIT licence. This is what its packages' own metadata state, for Linux, with the versions of
`constraints.txt`; what only develops troupe (`dev`, `docs`, `release`, `mutation`) is left out. Written by
`python docs/licences.py`: do not edit this page. With copyleft: {copyleft}.

| package | version | needed by | licence |
|---|---|---|---|
"""


def extras() -> dict[str, list[str]]:
    """The requirements by extra; "": those of every installation."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    left_out = ("all", "dev", "docs", "release", "mutation")
    return {"": project["dependencies"]} | {name: those for name, those in optional.items() if name not in left_out}


def needed(requirement: str, seen: set[str]) -> Iterator[str]:
    """The package and all that it needs, of those that are installed."""
    asked = Requirement(requirement)
    name = re.sub(r"[-_.]+", "-", asked.name).lower()
    if name not in seen or asked.extras:
        seen.add(name)
        yield name
        for each in _requires(name):
            wanted = Requirement(each)
            environments = [{"extra": extra} for extra in ("", *asked.extras)]
            if wanted.marker is None or any(wanted.marker.evaluate(one) for one in environments):
                yield from needed(each, seen)


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def licence(name: str) -> str:
    about = importlib.metadata.metadata(name)
    classified = [
        each.rpartition(" :: ")[2] for each in about.get_all("Classifier", []) if each.startswith("License ::")
    ]
    stated = about.get("License-Expression") or ", ".join(classified)
    free = (about.get("License") or "").strip()
    return stated or (free if free and len(free) < 60 and "\n" not in free else "see the package")


def constraints() -> dict[str, str]:
    lines = (DOCS.parent / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def page() -> str:
    by_package: dict[str, list[str]] = {}
    for extra, requirements in extras().items():
        seen: set[str] = set()
        for name in (name for each in requirements for name in needed(each, seen)):
            if extra not in by_package.setdefault(name, []):
                by_package[name].append(extra)
    lines, missing, known = [], [], constraints()
    for name, needs in sorted(by_package.items()):
        where = "every installation" if "" in needs else ", ".join(f"`{each}`" for each in needs)
        try:
            lines.append(f"| {name} | {known.get(name, '-')} | {where} | {licence(name)} |")
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{name} ({where})")
    copyleft = [line.split(" | ") for line in lines if re.search("GPL|MPL|Mozilla", line)]
    named = ", ".join(f"{name.strip('| ')} ({where}; {stated.strip('| ')})" for name, _, where, stated in copyleft)
    text = HEAD.format(copyleft=named) + "\n".join(lines) + "\n"
    if missing:
        text += f"\nNot installed where this page was written: {', '.join(missing)}.\n"
    return text


if __name__ == "__main__":
    (DOCS / "licences.md").write_text(page())
