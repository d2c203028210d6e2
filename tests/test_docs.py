"""README and docs/ as a reader meets them: links lead somewhere, commands exist, sentences are short."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import yaml

from rtdyn.api.keywords import options_of
from rtdyn.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "RELEASE", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

LONGEST_README, LONGEST_SENTENCE = 120, 25
"""Lines, words, words."""
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"``? ?([^`]+?) ?``?")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for match in FENCED.finditer(page.read_text()):
        yield match[2], match[3]


def prose(text: str) -> str:
    """The text without blocks, tables, headings, comments; a list's entries are paragraphs, a link is its text."""
    text = re.sub(r"<!--.*?-->", "", FENCED.sub("\n\n", text), flags=re.DOTALL)
    lines = ["" if line.lstrip().startswith(("|", "#", "!")) else line for line in text.splitlines()]
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n", "\n".join(lines), flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences(text: str) -> list[str]:
    """Split at the ends of paragraphs and of sentences; code counts as one word, and so does a list of names."""
    paragraphs = re.split(r"\n\s*\n", re.sub(r"(?:code, ){5,}", "", CODE.sub("code", prose(text))))
    return [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?])(?<!eq\.)[*)]* +", " ".join(paragraph.split()))
        if sentence
    ]


def long_sentences(text: str, limit: int = LONGEST_SENTENCE) -> list[str]:
    """Those of more words than that."""
    return [sentence for sentence in sentences(text) if len(sentence.split()) > limit]


def docstring(node: ast.AST) -> str | None:
    """A statement that is a string alone: of a module, a class, a function or an attribute."""
    is_string = (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )
    return inspect.cleandoc(node.value.value) if is_string else None


def docstrings(source: str) -> Iterator[str]:
    """All of a file, without what is displayed: indented formulas and commands."""
    for text in filter(None, map(docstring, ast.walk(ast.parse(source)))):
        paragraphs = re.split(r"\n\s*\n", text)
        yield "\n\n".join(p for p in paragraphs if not all(line.startswith("    ") for line in p.splitlines()))


def spelled(node: ast.AST) -> str | None:
    """A string in the code, with one word for each value that is put into it; None for other code."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(spelled(part) or "value" for part in node.values)
    return None


def messages(source: str) -> Iterator[str]:
    """The strings of a file that are no docstrings, without paragraphs that click shows as they are typed."""
    remaining: list[ast.AST] = [ast.parse(source)]
    while remaining:
        node = remaining.pop()
        if docstring(node) is not None:
            continue
        if (text := spelled(node)) is None:
            remaining += ast.iter_child_nodes(node)
        else:
            yield re.sub(r"^\x08\n(.+\n?)+", "", text, flags=re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that GitHub and MkDocs give a heading."""
    text = re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", text))


def anchors(page: Path) -> set[str]:
    """Of a page's headings."""
    return {slug(m[1]) for m in re.finditer(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)}


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """Every command line of rtdyn, and whether it is whole: in a block, not in code inside a sentence."""
    text = page.read_text()
    for _, block in blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.match(r"\s*(?:\$ |- run: |run: )?(?:[A-Z_]+=\S+ )*(rtdyn .+)", line):
                yield match[1], True
    for match in CODE.finditer(FENCED.sub("", text)):
        if match[1].startswith("rtdyn ") and "…" not in match[1]:
            yield " ".join(match[1].split()), False


def parse(line: str) -> None:
    """Let click read a command line as it would, without running it."""
    words = shlex.split(line.partition(" | ")[0], comments=True)[1:] or ["--help"]  # a bare `rtdyn` shows its help
    if words[0].startswith("-"):
        main.make_context("rtdyn", words)
    whole = click.Context(main, info_name="rtdyn", **main.context_settings)
    name, command, rest = main.resolve_command(whole, words)
    assert command is not None, name
    command.make_context(name, rest, parent=whole)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST_README


def test_the_sentence_splitter_sees_sentences() -> None:
    text = "# Head\n\nOne two. Three `a. b` (four)! Five\nsix:\n\n- seven\n- [eight nine](x.md).\n\n| ten |\n"
    assert sentences(text) == ["One two.", "Three code (four)!", "Five six:", "seven", "eight nine."]


@BY_PAGE
def test_sentences_are_short(page: Path) -> None:
    assert not long_sentences(page.read_text(), LONGEST_SENTENCE)


def test_sentences_of_the_help_and_of_the_reference_are_short() -> None:
    """Those of options, and the cells that docs/api.md has of docstrings, which are tables."""
    helps = {option.help for command in main.commands.values() for option in options_of(command).values()}
    cells = {
        row.split(" | ")[-1].strip(" |") for row in (ROOT / "docs/api.md").read_text().splitlines() if row[:1] == "|"
    }
    assert len(helps) > 60 and len(cells) > 80
    assert not [long for text in helps | cells if text for long in long_sentences(text)]


@pytest.mark.parametrize(("folder", "texts"), [("rtdyn", docstrings), ("scripts", docstrings), ("rtdyn", messages)])
def test_sentences_in_the_code_are_short(folder: str, texts: Callable[[str], Iterator[str]]) -> None:
    too_long = {
        str(file.relative_to(ROOT)): long
        for file in sorted((ROOT / folder).rglob("*.py"))
        for text in texts(file.read_text())
        if (long := long_sentences(text))
    }
    assert not too_long


def test_sentences_in_the_code_are_found_wherever_they_stand() -> None:
    words = "word " * (LONGEST_SENTENCE + 1)
    source = f'''"""{words}"""\nx = 1\n"""{words}"""\nclass A:\n    """Short.\n\n        {words}\n\n    {words}"""
    async def f(self):\n        """{words}"""\n        raise Error(f"{{x}} {words}", ["{words}"])\n'''
    assert [len(long_sentences(text)) for text in docstrings(source)] == [1, 1, 1, 1]
    assert sum(len(long_sentences(text)) for text in messages(source)) == 2
    assert not long_sentences("".join(messages(f'x = "\\b\\n{words}\\n\\nAfter."')))


def test_every_figure_of_performance_says_machine_command_date_and_code() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    head = ["figure", "value", "machine", "command", "date", "code"]
    for section in sections:
        question, *lines = section.splitlines()
        assert question.endswith("?")
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
        (first, _, *rest) = [[cell.strip() for cell in row] for row in rows]
        assert first == head and rest, f"{question}: one table, of {head}"
        for row in rest:
            assert len(row) == len(head) and all(row), row
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", row[-2]), row
            assert re.match(r"((stated in|before) )?[0-9a-f]{7}\b|own$", row[-1]), row


@BY_PAGE
def test_links_and_anchors_resolve(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        if (ROOT / "docs") in page.parents:
            assert (ROOT / "docs") in file.parents, f"{target}: the pages' own site does not have it"
        assert not anchor or anchor in anchors(file), f"{target}: no such heading"


@BY_PAGE
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    for line, whole in commands(page):
        try:
            parse(line)
        except click.exceptions.Exit:  # --help and --version
            pass
        except click.UsageError as error:
            said = error.format_message()
            is_any_file = "File '" in said and "does not exist" in said  # the options are known by then
            if not is_any_file and (whole or not isinstance(error, click.MissingParameter)):
                pytest.fail(f"{line}: {said}")


def test_commands_are_found_and_wrong_ones_fail() -> None:
    assert len(list(commands(README))) >= 6
    with pytest.raises(click.UsageError):
        parse("rtdyn track --model tiny --no-such-option")
    with pytest.raises(click.UsageError):
        parse("rtdyn no-such-command")


def test_every_page_has_its_place_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    entries = [page for entry in nav for page in (next(iter(entry.values())) if isinstance(entry, dict) else [entry])]
    assert sorted(entries) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_commands_in_notebooks_are_those_of_the_command_line() -> None:
    cells = [
        "".join(cell["source"]).replace("\\\n", "")
        for notebook in sorted((ROOT / "examples").glob("*.ipynb"))
        for cell in json.loads(notebook.read_text())["cells"]
    ]
    lines = [line[1:] for cell in cells for line in cell.splitlines() if line.startswith("!rtdyn ")]
    assert len(lines) >= 2
    for line in lines:
        parse(line)


@BY_PAGE
def test_python_blocks_compile(page: Path) -> None:
    for language, block in blocks(page):
        if language == "python":
            ast.parse(block)


def cited_sections() -> Iterator[tuple[str, str]]:
    """Each citation of docs/methods.md in the code: where it is, and the section's number, "" without one."""
    for file in sorted((ROOT / "rtdyn").rglob("*.py")):
        text = " ".join(file.read_text().split())
        for match in re.finditer(r"METHODS((?:,? (?:and )?§[\w()]+)*)", text):
            for number in re.findall(r"§(\w+(?:\(\w\))?)", match[1]) or [""]:
                yield str(file.relative_to(ROOT)), number


def test_sections_and_sources_that_the_code_cites_are_there() -> None:
    methods = (ROOT / "docs/methods.md").read_text()
    sources = {
        s for file in (ROOT / "rtdyn").rglob("*.py") for s in re.findall(r"(?<!\w)\[[A-Z]{2}\]", file.read_text())
    }
    assert "[DS]" in sources
    assert all(f"| {source} |" in methods for source in sources), sources
    headings = re.findall(r"^#+ (\d+(?:\([a-z]\))?)\.? ", methods, re.MULTILINE)
    cited = list(cited_sections())
    assert len(cited) > 40
    wrong = {(file, number) for file, number in cited if number not in headings}
    assert not wrong, "cite METHODS §3 or METHODS §3(d), a section of docs/methods.md"
