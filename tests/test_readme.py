"""What README.md and docs/ say is true: commands, examples, links."""

from __future__ import annotations

import pathlib
import re

import pytest

import fastbn

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_first_two_blocks_train_and_test():
    fenced = re.findall(r"^```(\w*)$", README, flags=re.MULTILINE)
    assert fenced[:4] == ["sh", "", "sh", ""]
    assert len(blocks("sh")) == 2
    train, test = blocks("sh")
    assert "fastbn train" in train
    assert "pytest" in test
    assert all(len(command.strip().splitlines()) == 1 for command in (train, test))


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_python_examples_run_and_print_what_the_readme_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    found = []
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), names)
        accuracy = re.search(r"test accuracy (\d+\.\d)%", capsys.readouterr().out)
        found.append(float(accuracy[1]))
    assert min(found) > 95
    stated = re.search(r"parameters, 240 steps\): test accuracy (\d+\.\d)%", README)
    assert abs(found[0] - float(stated[1])) < 1  # other processors round differently
    assert (tmp_path / "digits.safetensors").is_file()


def test_the_example_of_the_guide_runs(capsys):
    (example,) = re.findall(
        r"^```python\n(.*?)^```$",
        (ROOT / "docs" / "guide.md").read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    exec(compile(example, "guide.md", "exec"), {})
    accuracy = re.search(r"test accuracy (\d+\.\d)%", capsys.readouterr().out)
    assert float(accuracy[1]) > 95


def test_every_public_function_is_in_the_table():
    table = README[README.index("## The API") :]
    functions = [
        name
        for name in fastbn.__all__
        if callable(getattr(fastbn, name)) and not isinstance(getattr(fastbn, name), type)
    ]
    assert len(functions) > 10
    for name in functions:
        assert f"`{name}" in table, name


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_linked_are_there(page):
    for target in re.findall(r"\]\((?!http)([^)#]*)", page.read_text()):
        assert (page.parent / target).exists(), target


def heading_anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_that_are_linked_are_there(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", page.read_text()):
        assert anchor in heading_anchors(page.parent / target if target else page), anchor


def test_tables_of_speed_are_as_bench_prints_them():
    """All lines of a table have the same width, unless it was edited by hand."""
    text = (ROOT / "docs" / "speed.md").read_text()
    tables = re.findall(r"^\| work +\|.*?\n(?:\n|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    bench = [table for table in tables if "winner" in table]
    assert len(bench) == 20
    for table in bench:
        assert len({len(line) for line in table.strip().splitlines()}) == 1
