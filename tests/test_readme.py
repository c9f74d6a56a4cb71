"""What the documents show is run: their blocks of Python, and the doctests."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import haag_vq
from haag_vq.cli import _parser

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(haag_vq.__path__, "haag_vq.")
    if not module.name.endswith("__main__")
)


def code_of(document: Path) -> str:
    """All blocks of Python, each at its own line, so that a trace points into the document."""
    text = document.read_text()
    lines = [""] * text.count("\n")
    for match in BLOCK.finditer(text):
        first = text.count("\n", 0, match.start(1))
        block = match.group(1).splitlines()
        lines[first : first + len(block)] = block
    return "\n".join(lines) + "\n"


RUNNABLE = [document for document in DOCUMENTS if BLOCK.search(document.read_text())]


def test_the_readme_shows_code() -> None:
    assert ROOT / "README.md" in RUNNABLE
    assert code_of(ROOT / "README.md").count("open_dataset") >= 2


@pytest.mark.parametrize("document", RUNNABLE, ids=lambda path: path.name)
def test_blocks_of_python_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of(document), str(document), "exec"), {"__name__": "a document"})
    for name in re.findall(r'\.save\("([^"]+)"\)', code_of(document)):
        assert haag_vq.load_ground_truth(tmp_path / name).n_queries > 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_are_understood(document: Path) -> None:
    """Every `haag-vq …` line of a document parses; nothing is run."""
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"^ {4}(?:\$ )?haag-vq ([a-z].*)$", text, re.MULTILINE):
        if not line.startswith(("searching", "note")):
            _parser().parse_args(shlex.split(line, comments=True))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("name", MODULES)
def test_doctests_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert result.failed == 0


def test_there_are_doctests() -> None:
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name) for name in MODULES]
    assert any(test.examples for module in modules for test in finder.find(module))
