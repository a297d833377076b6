"""The documentation agrees with the code: generated pages are current, links lead somewhere, words can be found."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import troupe
from helpers import PATIENCE_SECONDS
from troupe import arguments
from troupe.config import fields

ROOT = Path(__file__).parent.parent
PAGES = [file for folder in ("", "benchmarks", "examples", "docs") for file in sorted((ROOT / folder).glob("*.md"))]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def script(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "api.md"])
def test_a_generated_page_is_current(name: str):
    page = ROOT / "docs" / name
    assert page.read_text() == script(ROOT / "docs/reference.py").PAGES[name](), "run: python docs/reference.py"


def test_every_setting_and_every_public_name_has_its_entry():
    settings, api = ((ROOT / "docs" / name).read_text() for name in ("settings.md", "api.md"))
    assert [name for name in fields() if f"| `{name}` |" not in settings] == []
    assert [name for name in troupe.__all__ if f"## troupe.{name}\n" not in api] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, section = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{target}: no such file"
        if section:
            assert section in sections(linked), f"{target}: no such section"


def sections(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "words", ["learning rate", "hyperparameter", "standard deviation", "intrinsic", "off-policy", "importance sampling"]
)
def test_a_search_for_the_fields_words_finds_them(words: str):
    assert any(words in page.read_text().lower() for page in (ROOT / "docs").glob("*.md"))


def test_every_citation_is_in_the_bibliography():
    entries = (ROOT / "docs/bibliography.md").read_text().splitlines()
    citation = re.compile(r"([A-Z][\w-]+)(?: et al\.|(?:,| &| and) [A-Z]\w+(?: (?:&|and) \w+)?),? \(?(\d{4})")
    files = [*PAGES, *(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.toml"), *(ROOT / "examples").glob("*.py")]
    cited = {match.groups() for file in files for match in citation.finditer(file.read_text())}
    missing = {(name, year) for name, year in cited if not any(name in line and year in line for line in entries)}
    assert len(cited) > 20
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_takes_every_command_of_a_page(page: Path):
    """Options and arguments have the names that the page gives them."""
    text = page.read_text().replace("\\\n", "")
    for line in re.findall(r"^ *(troupe [a-z].*)$", text, re.MULTILINE) + re.findall(r"`(troupe [a-z][^`\n]*)`", text):
        command = re.split(r"\s{2,}|, troupe ", line)[0]  # what follows is about it
        command = re.sub(r"(--\w+) (?:[nK]|\d+\.\.\d+)\b", r"\1 1", re.sub(r"[\[\]]|\.{3}", "", command))
        words = shlex.split(command, comments=True)[1:]
        if len(words) > 1 and "--help" not in command:  # not the bare name of a command
            arguments.parse(words)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "api.md"], ids=lambda page: page.name)
def test_the_python_of_a_page_can_be_read(page: Path):
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            compile(text, str(page), "exec")


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen commands, beside another test
@pytest.mark.parametrize(
    "name", ["../README", "tutorial", "memory", "continuous-actions", "sparse-rewards", "tuning", "deployment"]
)
def test_a_page_does_what_it_says(name: str, tmp_path: Path):
    """Its blocks are run in their order. One that begins with `# FILE.py` is that file; of the shell's lines those of
    troupe and Python are run, and not the installation."""
    programs = {"troupe": [sys.executable, "-m", "troupe"], "python": [sys.executable]}
    for language, text in BLOCK.findall((ROOT / f"docs/{name}.md").read_text()):
        if language == "python" and (file := re.match(r"# (\w+\.py)\n", text)):
            (tmp_path / file[1]).write_text(text)
            continue
        lines = [shlex.split(line) for line in text.splitlines()] if language == "sh" else []
        commands = [[*programs[program], *words] for program, *words in lines if program in programs]
        for command in commands or ([[sys.executable, "-c", text]] if language == "python" else []):
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            assert done.returncode == 0, done.stderr


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = str(tomllib.loads((ROOT / "docs/zensical.toml").read_text())["project"]["nav"])
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"'{page.name}'" not in navigation] == []


@pytest.mark.slow
def test_the_site_builds_and_its_links_lead_somewhere():
    pytest.importorskip("zensical")
    subprocess.run([sys.executable, ROOT / "docs/website.py"], check=True, timeout=PATIENCE_SECONDS)
    site = ROOT / "build/site"
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            target = urlsplit(link)
            if page.name != "404.html" and not target.scheme and not target.netloc and target.path:
                assert (page.parent / unquote(target.path)).is_file(), f"{page.relative_to(site)}: {link}"
