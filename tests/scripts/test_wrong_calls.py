"""Wrong calls of everything that is public: an error that names the argument, and no change."""

from __future__ import annotations

import collections

import pytest
import wrong_calls
import wrong_files
from trial import Trial
from wrong_subject import Subject, first
from wrong_values import of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    wrong_files.prepare(folder)
    return folder


def groups():
    """Rows by what is called, and by what they need."""
    found = collections.defaultdict(list)
    for row in wrong_calls.ROWS:
        what = row.name.partition(":")[0]
        if what.startswith("fastbn "):
            what = " ".join(what.split()[:2])
        found[" with ".join((what, *row.needs))].append(row)
    return found


@pytest.mark.parametrize("rows", groups().values(), ids=groups())
def test_rows(rows, folder):
    if missing := rows[0].missing():
        pytest.skip(f"without {' and '.join(missing)}")
    failures = []
    for row in rows:
        try:
            row.check(folder)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


def test_the_rows_differ():
    names = collections.Counter(row.name for row in wrong_calls.ROWS)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(wrong_calls.WRONG) >= 300


def test_the_trial_takes_its_cases_by_the_seed(tmp_path):
    trial = wrong_calls.TRIAL
    assert isinstance(trial, Trial)
    light = trial.run(1, 0.005, tmp_path)
    assert light.total() == trial.size(0.005)


def taking(call, **good):
    return Subject("subject", call, lambda folder: dict(good), {"x": of(3)})


def raising(error, x):
    raise error


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda x: None, "was taken"),
        (lambda x: raising(KeyError("x: wrong"), x), "KeyError"),
        (lambda x: raising(ValueError("wrong"), x), "not named"),
        (lambda x: raising(OSError("x: wrong"), x), "OSError"),
    ],
)
def test_a_row_notices(call, complaint, tmp_path):
    first(tmp_path)
    (row,) = taking(call).rows()
    with pytest.raises(AssertionError, match=complaint):
        row.check(tmp_path)


def test_a_row_notices_what_has_changed(tmp_path):
    first(tmp_path)

    def change(x, notes):
        notes.append(x)
        raise ValueError("x: wrong")

    def write(x):
        (tmp_path / "file").touch()
        raise ValueError("x: wrong")

    for subject, complaint in ((taking(change, notes=[]), "argument"), (taking(write), "file")):
        (row,) = subject.rows()
        with pytest.raises(AssertionError, match=f"changed .*{complaint}"):
            row.check(tmp_path)
    (row,) = taking(lambda x: raising(ValueError("x: wrong"), x)).rows()
    (tmp_path / "file").unlink()
    assert row.check(tmp_path) == "ValueError"
