"""The pages themselves: links that lead somewhere, pages that are found, lengths, keys that exist."""

import json
import re

import pytest
import yaml
from doc_pages import CONFIGS, DOCS, README, ROOT, SHELL, blocks, inline_code, links, pages

from sct.config.check import to_dict
from sct.config.command import all_keys, compose_config

IDS = [str(page.relative_to(ROOT)) for page in pages()]
LANGUAGES = (*SHELL, "python", "yaml", "json", "text")
COMMANDS = ("train", "eval", "predict", "export", "report", "verify")
# pages that are generated may be as long as the code has keys, and the papers have tables
GENERATED = ("docs/reference/config.md", "docs/reference/paper-tables.md")
KEY = re.compile(r"'?\+?([a-z_]+(?:\.[a-z_0-9]+)+)(=.*)?")
PATH = re.compile(r"(configs|docs|scripts|sct|tests)/[a-z_0-9/.-]+")
# files that a user writes
OF_THE_USER = (
    "configs/data/mine.yaml",
    "configs/data/by_hand.yaml",
    "configs/experiment/mine.yaml",
    "configs/experiment/my_largest.yaml",
)
# shown as what a message is about
MISSPELT = ("encoder.reducer.rato",)
FILE = re.compile(r".*\.(json|jsonl|yaml|md|csv|pt|pt2|onnx|xml|bin|png|py|log)$")


def heading_anchors(page):
    heads = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in heading_anchors(target), f"{link}: no such heading"


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        if page.suffix == ".md":
            targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
            waiting += [target for target in targets if target.is_file() and target not in reached]
    written = {path for path in DOCS.rglob("*") if path.is_file()}
    assert written <= reached, f"nothing links to {sorted(written - reached)}"


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_a_page_is_short(page):
    if str(page.relative_to(ROOT)) not in GENERATED:
        assert len(page.read_text().splitlines()) <= 150


def test_the_pictures_are_small():
    for path in DOCS.rglob("*.png"):
        assert path.stat().st_size < 200_000, path


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_blocks_name_their_language_and_can_be_read(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: write ```bash, ```python, ```yaml, ```json or ```text"
        if block.language == "json":
            json.loads(block.text)
        if block.language == "yaml":
            yaml.safe_load(block.text)


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_files_of_the_project_that_the_text_names_exist(page):
    for code in inline_code(page):
        if PATH.fullmatch(code) and code not in OF_THE_USER:
            assert (ROOT / code).exists(), f"`{code}` does not exist"


@pytest.fixture(scope="module")
def known_keys():
    """Every dotted key that a command or a file of a group knows."""
    keys = {key for name in COMMANDS for key in all_keys(to_dict(compose_config(name, overrides=[])))}
    for path in CONFIGS.glob("*/*.yaml"):
        content = yaml.safe_load(path.read_text()) or {}
        # variants and recipes set keys of groups
        prefix = "" if path.parent.name in ("variant", "recipe") else f"{path.parent.name}."
        keys |= set(all_keys(content, prefix=prefix))
    return keys


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_keys_in_the_text_exist(page, known_keys):
    sections = {key.split(".")[0] for key in known_keys}
    for code in inline_code(page):
        for word in code.split():
            match = KEY.fullmatch(word)
            if match and match[1].split(".")[0] in sections and not FILE.match(match[1]) and match[1] not in MISSPELT:
                assert match[1] in known_keys, f"`{code}`: there is no key {match[1]}"
