"""The README does what it says."""

from __future__ import annotations

import pathlib
import re

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


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), names)
        accuracy = re.search(r"test accuracy (\d+\.\d)%", capsys.readouterr().out)
        assert float(accuracy[1]) > 95
    assert (tmp_path / "digits.safetensors").is_file()


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


def test_files_that_are_linked_are_there():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
