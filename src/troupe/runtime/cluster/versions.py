"""The versions that must be the same on all hosts of a run."""

from collections.abc import Callable, Mapping

from troupe.extras import DISTRIBUTION

_PACKAGES = {"troupe": DISTRIBUTION, "torch": "torch", "numpy": "numpy", "gymnasium": "gymnasium"}


def prober() -> Callable[[], dict[str, str]]:
    """A function that is sent with its code, so that it can be called where troupe is not installed.

    It returns the versions of Python and the packages, "" for one that is missing. `sources` is a checksum of troupe's
    own files, which may differ between checkouts of one version.
    """
    packages = dict(_PACKAGES)

    def probe() -> dict[str, str]:
        import importlib.metadata
        import importlib.util
        import pathlib
        import sys
        import zlib

        found = {"python": ".".join(map(str, sys.version_info[:2]))}
        for name, distribution in packages.items():
            try:
                found[name] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                found[name] = "unknown" if importlib.util.find_spec(name) else ""
        spec, total = importlib.util.find_spec("troupe"), 0
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for file in sorted(pathlib.Path(folder).rglob("*.py")):
                total = zlib.crc32(file.read_bytes(), zlib.crc32(file.name.encode(), total))
        return found | {"sources": f"{total:08x}"}

    return probe


def difference(host: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Why a host cannot take part, in one line with what to do there; "" if it can."""
    missing = [name for name in _PACKAGES if not theirs.get(name)]
    if "troupe" in missing:
        return f"host {host} lacks troupe: install {DISTRIBUTION} {ours['troupe']} there, as it is on this machine"
    if missing:
        wanted = " ".join(f"{_PACKAGES[name]}=={_public(ours[name])}" for name in missing)
        return f"host {host} lacks {', '.join(missing)}: pip install {wanted} there"
    for name in ("python", *_PACKAGES):
        if theirs[name] != ours[name]:
            todo = "" if name in ("python", "troupe") else f" (pip install {_PACKAGES[name]}=={_public(ours[name])})"
            return (
                f"host {host} has {name} {theirs[name]}, this machine has {ours[name]}: install the same on both{todo}"
            )
    if theirs["sources"] != ours["sources"]:
        return (
            f"host {host} has troupe {theirs['troupe']} with other source files than this machine (checksums "
            f"{theirs['sources']} and {ours['sources']}): install the same on both"
        )
    return ""


def _public(version: str) -> str:
    """Without the local part of a build: "2.13.0" for "2.13.0+cpu"."""
    return version.partition("+")[0]
