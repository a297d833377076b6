"""The documentation agrees with the code: generated pages are current, links lead somewhere, words can be found."""

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import troupe
from troupe import arguments
from troupe.config import fields

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
