"""Builds the documentation site from the pages of this repository. A link that leads nowhere ends the build.

pip install -c constraints.txt '.[docs]' && python docs/website.py
python -m http.server --directory build/site --bind 127.0.0.1       # the site, with its search, at 127.0.0.1:8000
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
STAGE = BUILD / "site-pages"
FILES = ["docs/*.md", "docs/pictures/*", "*.md", "*.cff", "benchmarks/*.md", "benchmarks/*.txt", "benchmarks/results/*",
         "examples/*"]  # fmt: skip
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)")


def place(path: PurePosixPath) -> PurePosixPath:
    """Where the site has a file of the repository: pages of docs/ at its top, and code as pages."""
    if path == PurePosixPath("README.md"):
        return PurePosixPath("index.md")
    if (ROOT / path).is_dir():
        return path / "README.md"
    path = path.relative_to("docs") if path.parts[0] == "docs" else path
    return path.with_suffix(".md") if path.suffix in (".py", ".ipynb") else path


def page(path: PurePosixPath) -> str:
    """A page with its links as the site needs them."""
    text, here = (ROOT / path).read_text(), path.parent
    if path.suffix == ".py":
        return f"# {path.name}\n\n```python\n{text}```\n"
    if path.suffix == ".ipynb":
        text = notebook(json.loads(text))

    def moved(link: re.Match[str]) -> str:
        target = PurePosixPath(os.path.normpath(here / link[1]))
        return f"]({os.path.relpath(place(target), place(path).parent)}"

    return _LINK.sub(moved, text)


def notebook(cells: dict[str, list[dict]]) -> str:
    """A notebook as a page: its text, its code, and what that printed and drew."""
    parts = []
    for cell in cells["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                image = base64.b64encode(base64.b64decode("".join(data["image/png"]))).decode()
                parts.append(f'<img alt="output of the cell" src="data:image/png;base64,{image}">')
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data.get('text/plain', '')).rstrip()}\n```")
    return "\n\n".join(parts)


def build() -> int:
    for folder in (STAGE, BUILD / "site"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (file for pattern in FILES for file in sorted(ROOT.glob(pattern)) if file.is_file()):
        path = PurePosixPath(file.relative_to(ROOT).as_posix())
        staged = STAGE / place(path)
        staged.parent.mkdir(parents=True, exist_ok=True)
        if staged.suffix == ".md":
            staged.write_text(page(path))
        else:
            shutil.copy(file, staged)
    shutil.copy(ROOT / "docs/zensical.toml", BUILD)
    return subprocess.call([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=BUILD)


if __name__ == "__main__":
    sys.exit(build())
