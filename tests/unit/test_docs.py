"""What the documents say exists: commands, options, make targets, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse.cli.main import app
from lakehouse.cli.reference import commands, render
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.stack.prepare import BackupRoot, RolePasswords

PAGES = sorted([PROJECT_ROOT / "README.md", *(PROJECT_ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"^```(?:sh|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:lakehouse|make) [^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
WORD = re.compile(r"[a-z-]+\Z")
COMMANDS = dict(commands(app))
TARGETS = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
PLACEHOLDER = {"lakehouse COMMAND --help"}


def lines_of(page: Path) -> Iterator[str]:
    """Every command line of a page: of its shell blocks, and those inside sentences."""
    text = page.read_text("utf-8")
    for block in CODE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part.removeprefix("$ ") for part in re.findall(r"\$\((lakehouse [^)]*)\)", line) or [line])
    yield from INLINE.findall(text)


def invocations(page: Path) -> list[list[str]]:
    found = []
    for line in lines_of(page):
        if line in PLACEHOLDER or not line.startswith(("lakehouse ", "make ")):
            continue
        found.append(shlex.split(line, comments=True))
    return found


def problem(words: list[str]) -> str:
    """What is wrong with a command line, '' if nothing."""
    if words[0] == "make":
        target = next(word for word in words[1:] if "=" not in word)
        return "" if target in TARGETS else f"no make target {target}"
    depth = next((n for n in (3, 2) if " ".join(words[:n]) in COMMANDS), 0)
    if not depth:
        return f"no command {' '.join(words[:3])}"
    if COMMANDS[" ".join(words[:depth])].context_settings.get("ignore_unknown_options"):
        return ""  # what follows belongs to the program that it calls
    known = {name for parameter in COMMANDS[" ".join(words[:depth])].params for name in parameter.opts}
    unknown = [word for word in words[depth:] if re.match(r"--?[a-z]", word) and word not in {*known, "--help"}]
    return f"{' '.join(words[:depth])} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_commands_exist(page: Path) -> None:
    assert [found for words in invocations(page) if (found := problem(words))] == []


def test_commands_were_found() -> None:
    found = [" ".join(words) for page in PAGES for words in invocations(page)]
    assert len(found) > 60
    assert "make demo" in found
    assert "lakehouse land warehouse.counts --root stock" in found
    assert any(line.startswith("lakehouse conf") for line in found)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("lakehouse vanish", "no command lakehouse vanish"),
        ("lakehouse contract vanish", "no command lakehouse contract vanish"),
        ("lakehouse land retail.sales --form 2024-01-01", "lakehouse land has no --form"),
        ("make vanish", "no make target vanish"),
    ],
)
def test_a_wrong_command_is_found(line: str, wrong: str) -> None:
    assert problem(shlex.split(line)) == wrong


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text("utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


OF_PREPARE = (*RolePasswords.model_fields, *BackupRoot.model_fields)


def test_settings_that_documents_name_exist() -> None:
    known = {f"LAKEHOUSE_{name.upper()}" for name in (*Settings.model_fields, *OF_PREPARE)}
    named: set[str] = set()
    for page in PAGES:
        named |= set(re.findall(r"(?<![A-Z0-9_])LAKEHOUSE_[A-Z0-9_]*[A-Z0-9]", page.read_text("utf-8")))
    assert len(named) > 20
    assert {name for name in named if name.partition("__")[0] not in known} == set()


def test_paths_that_documents_name_exist() -> None:
    """Paths of the repository in the architecture's and README's text."""
    named: set[str] = set()
    for page in (PROJECT_ROOT / "README.md", PROJECT_ROOT / "docs" / "architecture.md", *PAGES):
        named |= set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page.read_text("utf-8")))
    roots = (PROJECT_ROOT, PROJECT_ROOT / "include" / "lakehouse")
    assert len(named) > 10
    assert {name for name in named if not any((root / name).exists() for root in roots)} == set()


def test_failpoints_that_documents_name_exist() -> None:
    source = "".join(path.read_text("utf-8") for path in (PROJECT_ROOT / "include" / "lakehouse").rglob("*.py"))
    there = set(re.findall(r'failpoint\("([a-z_.]+)"', source))
    text = (PROJECT_ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(
        re.findall(
            r"`((?:publish|decide|land|rebuild|backup|databases|maintain|restore|repair|drill|rollback)\.[a-z_]+)`",
            text,
        )
    )
    assert {name for name in there if not name.startswith("land.")} == named


def test_pictures_are_few_small_and_shown() -> None:
    """`make walk` takes them; each is one that its document shows."""
    folder = PROJECT_ROOT / "docs" / "walk"
    pictures = sorted(folder.iterdir())
    assert 0 < len(pictures) <= 8
    assert [picture.name for picture in pictures if picture.stat().st_size > 100_000] == []
    shown = re.findall(r"!\[[^\]]+\]\(walk/([^)]+)\)", folder.with_suffix(".md").read_text("utf-8"))
    assert sorted(shown) == [picture.name for picture in pictures]


def test_every_decision_is_listed() -> None:
    folder = PROJECT_ROOT / "docs" / "adr"
    listed = LINK.findall((folder / "README.md").read_text("utf-8"))
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


def test_the_reference_of_commands_is_what_the_commands_say() -> None:
    said = (PROJECT_ROOT / "docs" / "cli.md").read_text("utf-8")
    assert said == render(app), "run `python -m lakehouse.cli.reference > docs/cli.md`"


def test_airflows_page_leads_to_the_table_page_and_to_containers() -> None:
    links = LINK.findall((PROJECT_ROOT / "docs" / "airflow.md").read_text("utf-8"))
    assert {"page.md", "docker.md", "dags.md", "spark.md", "settings.md"} <= set(links)
