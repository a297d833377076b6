"""Reference screens: committed after a person has looked at them; what is written later must be the same."""

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "data" / "screens"


def assert_reads_the_same(text: str, name: str, written_to: Path) -> None:
    """As the reference NAME.txt, with ^[ for each escape character; the new one is written into a folder."""
    reference, written = FOLDER / f"{name}.txt", written_to / f"{name}.txt"
    written.write_bytes(text.replace("\x1b", "^[").replace("\r", "^M").encode())
    advice = f"{written} differs from {reference}; if it is meant to, look at it and copy it there"
    assert reference.exists(), advice
    assert written.read_bytes().decode() == reference.read_bytes().decode(), advice
