"""Every fenced block says what it is, every command is run somewhere, and every name in the prose exists."""

import importlib
import re
import shutil
import subprocess

import pytest
import typer
import yaml
from typer.main import get_command

from builders.docs import CLASSES, PAGES, ROOT, Block, all_commands, blocks, commands_of, prose, read
from builders.docs_walk import FOR_A_TEAM, HERE, JOURNEY, NEEDS, NOT_RUN
from costopt.cli import COMMANDS, function_name
from costopt.schema.document import read_documents

BLOCKS = [block for page in PAGES for block in blocks(page)]
PROGRAMS = ("costopt", "docker", "helm", "kubectl", "make", "python", "sed", ".ci/run")
QUICKSTART = "make quickstart"
"""test_quickstart.py runs what it runs."""

ELSEWHERE = {"docs/reference.md": "`make lint` generates it", "CHANGELOG.md": "it tells of the past"}
"""Pages whose names of commands and options need not be of today, and why."""


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/installing.md", "benchmarks/README.md"} < set(PAGES)
    assert len(BLOCKS) > 20


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.info in CLASSES, f"{block.place}: a fence begins with ``` and one of {', '.join(CLASSES)}"
    typed = list(commands_of(block))
    assert bool(typed) == (block.info in ("sh", "console")), block.place
    if block.info == "text":
        told = [line for line in block.text.splitlines() if line.split()[:1] and line.split()[0] in (*PROGRAMS, "$")]
        assert told == [], f"{block.place}: this is to be typed or is printed; make it sh or console"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\nmake test\n", "is not closed"),
        ("```console\nno prompt\n```\n", "begins with"),
        ("```console\n```\n", "has a command"),
    ],
)
def test_a_block_that_is_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        [list(commands_of(block)) for block in blocks("page.md", text)]


def test_commands_are_read_with_what_they_print() -> None:
    text = "# Page\n## Part\n```console\n$ one \\\n    --two\nprinted\n\n$ three\n```\n```sh\nfour  # says why\n\n```\n"
    found = [command for block in blocks("page.md", text) for command in commands_of(block)]
    assert [(each.line, each.heading, each.text, each.shown) for each in found] == [
        (4, "Part", "one --two", "printed\n"),
        (8, "Part", "three", ""),
        (11, "Part", "four", None),
    ]


def test_every_command_is_run_by_some_test_or_says_why_not() -> None:
    walked = {command.text for leg in (*HERE, *JOURNEY, FOR_A_TEAM) for command in leg.commands} | {QUICKSTART}
    shown = {command.text for command in all_commands()}
    assert shown - walked - NOT_RUN.keys() == set(), "put them into a leg of builders.docs_walk, or say why not"
    assert walked & NOT_RUN.keys() == set()
    assert NOT_RUN.keys() <= shown, "these are no longer shown"
    assert NEEDS.keys() <= shown, "these are no longer shown"


def options_of(command: str) -> set[str]:
    """The options of a command of costopt."""
    module, line = COMMANDS[command]
    app = typer.Typer(add_completion=False)
    app.command(command, help=line)(getattr(importlib.import_module(module), function_name(command)))
    return {name for parameter in get_command(app).params for name in parameter.opts} | {"--help"}


OPTIONS = {command: options_of(command) for command in COMMANDS}


def typed_in(page: str) -> list[str]:
    """What a page shows in the type of commands: in its blocks, and between backquotes in its prose."""
    shown = [command.text for block in blocks(page) for command in commands_of(block)]
    return [*shown, *re.findall(r"`([^`\n]+)`", prose(page))]


@pytest.mark.parametrize("page", sorted(set(PAGES) - ELSEWHERE.keys()))
def test_commands_and_options_of_costopt_that_a_page_names_exist(page: str) -> None:
    known = set().union(*OPTIONS.values())
    for text in typed_in(page):
        words = re.sub(r"^kubectl costopt", "costopt", text).split()
        if words[0] == "costopt" and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
            assert words[1] in COMMANDS, (page, text)
            named = {word.partition("=")[0] for word in words[2:] if word.startswith("-")}
            assert named <= OPTIONS[words[1]], (page, text)
        elif re.fullmatch(r"--?[a-z][a-z-]*( [a-z0-9-]+)?", text):
            assert words[0] in known | {"--no-hooks"}, (page, text)


def test_every_command_of_costopt_is_in_the_readmes_table_and_the_other_way_round() -> None:
    rows = re.findall(r"^\| `costopt .*", read("README.md"), re.MULTILINE)
    named = {word for row in rows for word in re.findall(r"`(?:costopt )?([a-z-]+)\b[^`]*`", row.split("|")[1])}
    assert named == COMMANDS.keys()


def test_every_make_target_that_a_page_names_exists_and_make_lists_it() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make ([\w-]+) +\w", told, re.MULTILINE))
    assert listed == set(re.findall(r"^([\w-]+):.*## ", makefile, re.MULTILINE))
    for page in PAGES:
        named = {text.split()[1] for text in typed_in(page) if text.startswith("make ")}
        assert named <= listed, (page, named - listed)
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile.replace("\\\n", ""), re.MULTILINE)
    assert set(phony.split()) == targets


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_something(page: str) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", read(page)):
        target, _, anchor = link.partition("#")
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), (page, link)
        assert path.is_relative_to(ROOT), (page, link)
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, (page, link)


YAML_BLOCKS = [block for block in BLOCKS if block.info == "yaml"]


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=lambda block: block.place)
def test_a_yaml_block_is_valid_as_it_stands(block: Block) -> None:
    """Jobs and price books here; the chart's values and a kustomization where helm and kubectl read them."""
    document = yaml.safe_load(block.text)
    kind = document.get("kind", "values of the chart")
    if kind in ("CostOptJob", "PriceBook"):
        documents, mistakes = read_documents(block.text.encode(), block.page)
        assert (len(documents), mistakes) == (1, [])
    elif kind == "values of the chart":
        known = yaml.safe_load((ROOT / "charts/costopt/values.yaml").read_text())
        assert document.keys() <= known.keys(), block.place
        for name, book in document.get("priceBooks", {}).items():
            whole = {
                "apiVersion": "costopt.dev/v1alpha1",
                "kind": "PriceBook",
                "metadata": {"name": name},
                "spec": book,
            }
            assert read_documents(yaml.safe_dump(whole).encode(), block.page)[1] == []
    else:
        assert kind == "Kustomization", f"{block.place}: say here how a {kind} is checked"


def test_the_price_book_that_is_shown_prices_whatever_a_job_must_ask_for() -> None:
    (values,) = (block for block in YAML_BLOCKS if "priceBooks" in block.text)
    prices = yaml.safe_load(values.text)["priceBooks"]["default"]["prices"]
    assert {"cpu", "memory"} <= {price["resource"] for price in prices}, "else every total is unknown"


def test_the_manifest_in_the_readme_is_the_quickstarts() -> None:
    (shown,) = (block.text for block in YAML_BLOCKS if block.page == "README.md")
    sample = (ROOT / "manifests/samples/quickstart.yaml").read_text().split("\n---\n")[0]
    assert shown == "".join(f"{line}\n" for line in sample.splitlines() if not line.startswith("#"))


def test_no_page_names_a_file_of_the_project_that_is_not_there() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"runs"}
    must_not_be = {"operator/__init__.py"}
    for page in set(PAGES) - ELSEWHERE.keys():
        for text in set(re.findall(r"`([\w.-]+/[\w./-]+)`", prose(page))) - must_not_be:
            if text.split("/")[0] in folders:
                assert (ROOT / text).exists(), (page, text)
