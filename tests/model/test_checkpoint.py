"""Checkpoints: a resumed fit ends like one that was not interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from cases import held_by_another_thread
from resumed import Killed, kill_in
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastbn
from fastbn.files import tensor_file
from fastbn.fit import loop
from fastbn.model import saving
from fastbn.model.saving import to_bytes

SIZES = (6, 9, 4)


@pytest.fixture
def data(rng):
    x = rng.standard_normal((97, 6)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0)


@pytest.fixture
def killed(data, tmp_path):
    """Return the checkpoint of a fit that was killed before its step 20."""
    with pytest.raises(Killed):
        fit(fastbn.BatchNormMLP(SIZES), data, tmp_path / "c", killed_at=20)
    return tmp_path / "c"


def fit(model, data, path=None, killed_at=None, rate=lambda step: 0.02 / (1 + step), **options):
    """Train 6 epochs of 12 steps; `killed_at` kills the fit before the rate of that step."""

    def schedule(step):
        if killed_at is not None and step >= killed_at:
            raise Killed
        return rate(step)

    options = {"epochs": 6, "batch_size": 8, "schedule": schedule, **options}
    if path is not None:
        options["checkpoint"] = path
    return model.fit(*data, **{"progress": False, **options})


def facts(model, history):
    """Return everything that has to be the same in the end."""
    measured = dataclasses.asdict(history)
    del measured["seconds"]
    state = model.snapshot()
    return {"measured": measured, "counts": (model.steps, model.epochs), "state": state}


def assert_same(ones, others):
    np.testing.assert_equal(ones, others)  # to the bit, NaN included


def goes_on(train, folder, kills):
    """Kill and resume a fit at these steps; it ends like a whole fit. Return its facts.

    `train` gets the path of the checkpoint to resume from, and the step at which to kill the fit.
    """
    expected = train(folder / "whole")
    for step in kills:
        with pytest.raises(Killed):
            train(folder / "parts", step)
    assert_same(train(folder / "parts"), expected)
    return expected


CASES = {
    "plain": ({}, {}),
    "validated": ({"input_normalization": "zscore"}, {"validation_data": None}),
    "stopping": (
        {"optimizer": "sgd"},
        {"early_stopping": fastbn.EarlyStopping(patience=2, monitor="loss", min_delta=0.05)},
    ),
    "best kept": ({}, {"early_stopping": fastbn.EarlyStopping(9, "loss"), "schedule": None}),
    "in order": ({"dropout": 0.2, "dtype": "float64"}, {"shuffle": False}),
    "weighted": ({"weighted": True}, {"sample_weight": None}),
}


@pytest.mark.parametrize("every", [None, 5, 12, 20])
@pytest.mark.parametrize("name", CASES)
def test_a_fit_that_goes_on_ends_with_the_same_bits(data, tmp_path, name, every):
    model_options, options = CASES[name]
    options = {**options, "checkpoint_every": every}
    if "validation_data" in options:
        options["validation_data"] = (data[0][:20], data[1][:20])
    if "sample_weight" in options:
        options["sample_weight"] = np.linspace(0.5, 2, 97)

    def model():
        return fastbn.BatchNormMLP(SIZES, seed=7, lr=0.02, **model_options)

    whole = model()
    expected = facts(whole, fit(whole, data, tmp_path / "whole", **options))
    if "schedule" in options:  # a schedule by name cannot raise, so a callback does
        kills = [{"callbacks": [kill_in(epoch)]} for epoch in (1, 3, 5)]
    else:
        kills = [{"killed_at": step} for step in (0, 3, 17, 40, 66)]
    path = tmp_path / "parts"
    for killing in kills:  # one after the other, with one checkpoint
        with contextlib.suppress(Killed):
            fit(model(), data, path, resume=True, **{**options, **killing})
    part = model()
    assert_same(facts(part, fit(part, data, path, resume=True, **options)), expected)
    again = model()  # the fit is over, so nothing is trained
    assert_same(facts(again, fit(again, data, path, resume=True, **options)), expected)
    assert set(os.listdir(tmp_path)) == {"whole", "parts"}


def test_a_resumed_fit_does_not_start_over(data, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(Killed):
        fit(fastbn.BatchNormMLP(SIZES), data, path, killed_at=40, checkpoint_every=4)
    asked = []

    def schedule(step):
        asked.append(step)
        return 0.1

    fit(fastbn.BatchNormMLP(SIZES), data, path, schedule=schedule, resume=True, checkpoint_every=4)
    assert min(asked[1:]) >= 36  # the first call only checks the schedule


@pytest.mark.parametrize(
    ("every", "expected"),
    [(None, [12, 24]), (5, [5, 10, 15, 20, 25, 30, 35]), (12, [12, 24]), (18, [18])],
)
def test_when_checkpoints_are_written(data, tmp_path, monkeypatch, every, expected):
    written = []
    write = saving.write

    def note(model, path, fit, tensors):
        written.append((model.steps, fit["is_over"]))
        write(model, path, fit, tensors)

    monkeypatch.setattr(saving, "write", note)
    fit(fastbn.BatchNormMLP(SIZES), data, tmp_path / "c", epochs=3, checkpoint_every=every)
    assert written == [*((steps, False) for steps in expected), (36, True)]


def test_a_checkpoint_is_a_model_file(data, tmp_path):
    path = tmp_path / "c"
    model = fastbn.BatchNormMLP(SIZES, input_normalization="minmax")
    rule = fastbn.EarlyStopping(9, "loss")
    with pytest.raises(Killed):
        fit(model, data, path, killed_at=20, checkpoint_every=3, early_stopping=rule)
    loaded = fastbn.BatchNormMLP.load(path)
    assert loaded.steps == 18
    assert loaded.predict(data[0]).shape == (97,)
    names = set(load_file(path))
    assert {"fit.losses", "fit.correct", "best.layers.0.weight", "layers.0.weight"} <= names
    loaded.save(tmp_path / "m")
    assert not any(name.startswith(("fit.", "best.")) for name in load_file(tmp_path / "m"))


REFUSED = {
    "accuracy": ({"until_accuracy": 0.9}, "until_accuracy as in"),
    "epochs": ({"epochs": 7}, "epochs as in .*c, 6, got 7"),
    "batch size": ({"batch_size": 9}, "batch_size"),
    "order": ({"shuffle": False}, "shuffle"),
    "schedule": ({"schedule": "cosine"}, "schedule .* 'a function', got 'cosine'"),
    "stopping": ({"early_stopping": 3}, "early_stopping"),
    "validation": (
        {"validation_data": (np.zeros((2, 6)), [0, 1])},
        "validation_data as in .*c, none, got some",
    ),
}


def assert_not_resumed(path, message, data, model=None, **options):
    """Assert that the fit is refused, and that neither model nor checkpoint changes."""
    model, before = model or fastbn.BatchNormMLP(SIZES), path.read_bytes()
    state = pickle.dumps(model)
    with pytest.raises(ValueError, match=f"^resume: expected {message}"):
        fit(model, data, path, resume=True, **options)
    assert pickle.dumps(model) == state
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", REFUSED)
def test_another_fit_is_refused(data, killed, name):
    options, message = REFUSED[name]
    assert_not_resumed(killed, message, data, **options)


def test_other_data_and_another_model_are_refused(data, killed):
    x, y = data
    for others in ((x + 1, y), (x, (y + 1) % 4)):
        assert_not_resumed(killed, "data as in", others)
    assert_not_resumed(killed, "samples as in", (x[:-1], y[:-1]))
    for place in [(0, 0), (50, 3), (96, 5)]:
        other = x.copy()
        other[place] += 1
        assert_not_resumed(killed, "data as in", (other, y))
    seed, sizes = fastbn.BatchNormMLP(SIZES, seed=1), fastbn.BatchNormMLP((6, 10, 4))
    assert_not_resumed(killed, "the model's seed as in", data, seed)
    assert_not_resumed(killed, "the model's layer_sizes as in", data, sizes)
    with pytest.raises(Killed):
        fit(fastbn.BatchNormMLP(SIZES), data, killed, 20, validation_data=(x[:9], y[:9]))
    message = "validation_data as in .*c, got others: [^0-9]*$"
    assert_not_resumed(killed, message, data, validation_data=(x[:9] + 1, y[:9]))


def test_files_that_are_not_checkpoints(data, tmp_path):
    model = fastbn.BatchNormMLP(SIZES)
    model.save(tmp_path / "m")
    state = pickle.dumps(model)
    with pytest.raises(ValueError, match="^checkpoint: expected that of a fit, got the model .*m$"):
        fit(model, data, tmp_path / "m", resume=True)
    (tmp_path / "broken").write_bytes(b"\0" * 100)
    with pytest.raises(fastbn.ModelFileError, match="broken"):
        fit(model, data, tmp_path / "broken", resume=True)
    with pytest.raises(IsADirectoryError, match="checkpoint: expected a file"):
        fit(model, data, tmp_path)
    with pytest.raises(FileNotFoundError, match="checkpoint: expected an existing folder"):
        fit(model, data, tmp_path / "no" / "c")
    with pytest.raises(ValueError, match="checkpoint: expected a path"):
        fit(model, data, resume=True)
    with pytest.raises(ValueError, match="checkpoint: expected a path"):
        fit(model, data, checkpoint_every=5)
    for wrong in (0, -1, 1.5, "5", True):
        with pytest.raises((TypeError, ValueError), match="checkpoint_every: expected an integer"):
            fit(model, data, tmp_path / "c", checkpoint_every=wrong)
    assert pickle.dumps(model) == state
    assert set(os.listdir(tmp_path)) == {"m", "broken"}


def test_without_resume_a_fit_starts_over(data, tmp_path):
    path = tmp_path / "c"
    first = fastbn.BatchNormMLP(SIZES)
    expected = facts(first, fit(first, data, path))
    second = fastbn.BatchNormMLP(SIZES)
    assert_same(facts(second, fit(second, data, path)), expected)


def test_a_checkpoint_that_cannot_be_written_keeps_the_one_before(data, tmp_path, monkeypatch):
    path = tmp_path / "c"
    model = fastbn.BatchNormMLP(SIZES)
    sync, calls = os.fsync, []

    def full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == 5:  # two calls for each checkpoint: the file and its folder
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        fit(model, data, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["c"]
    assert fastbn.BatchNormMLP.load(path).steps == 24
    whole, part = (fastbn.BatchNormMLP(SIZES) for _ in range(2))
    expected = facts(whole, fit(whole, data))
    assert_same(facts(part, fit(part, data, path, resume=True)), expected)


@pytest.mark.parametrize("calls", ["of some steps", "of one step"])
def test_ctrl_c_writes_a_checkpoint_to_resume_from(data, tmp_path, monkeypatch, calls):
    if calls == "of one step":
        monkeypatch.setattr(loop._Chunk, "end", lambda self, steps: None)
    whole, part, rest = (fastbn.BatchNormMLP(SIZES) for _ in range(3))
    expected = facts(whole, fit(whole, data, schedule=None))
    pressed = []

    def press(step):  # in the middle of an epoch; it is called again at its end
        if step == 30 and not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))
        return 1e-3

    path, options = tmp_path / "c", {"checkpoint_every": 1000}
    assert fit(part, data, path, schedule=press, **options).stop_reason == "interrupted"
    assert part.steps == 31 if calls == "of one step" else 30 < part.steps < 72
    assert fastbn.BatchNormMLP.load(path).steps == part.steps
    history = fit(rest, data, path, schedule=lambda step: 1e-3, resume=True, **options)
    assert_same(facts(rest, history), expected)


TERM = """
    import os, signal, sys
    import numpy as np, fastbn
    x = np.random.default_rng(0).standard_normal((97, 6)); y = (x[:, 0] > 0).astype(int)
    model = fastbn.BatchNormMLP((6, 9, 2))

    def schedule(step):
        if step == 30 and sys.argv[1] == "killed":
            os.kill(os.getpid(), signal.SIGTERM)
        return 1e-3

    model.fit(x, y, epochs=6, batch_size=8, schedule=schedule, checkpoint="c", resume=True)
    model.save(sys.argv[1])
    print(model.steps)
"""


@pytest.mark.parametrize("calls", ["of some steps", "of one step"])
def test_sigterm_writes_a_checkpoint_and_ends_the_process(tmp_path, calls):
    code = textwrap.dedent(TERM)
    if calls == "of one step":
        one = "from fastbn.fit import loop; loop._Chunk.end = lambda self, steps: None"
        code = f"{one}\n{code}"

    def run(name):
        return subprocess.run(
            [sys.executable, "-c", code, name], cwd=tmp_path, capture_output=True, text=True
        )

    assert run("killed").returncode == -signal.SIGTERM
    assert os.listdir(tmp_path) == ["c"]
    steps = fastbn.BatchNormMLP.load(tmp_path / "c").steps
    assert steps == 31 if calls == "of one step" else 30 < steps < 72
    assert run("went_on").returncode == 0
    (tmp_path / "c").unlink()
    assert run("whole").returncode == 0
    assert (tmp_path / "went_on").read_bytes() == (tmp_path / "whole").read_bytes()


def test_somebody_elses_handler_of_sigterm_stays(data, tmp_path):
    heard = []
    previous = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        terminate = [lambda *_: os.kill(os.getpid(), signal.SIGTERM)]
        history = fit(fastbn.BatchNormMLP(SIZES), data, tmp_path / "c", callbacks=terminate)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert history.stop_reason == "epochs"
    assert len(heard) == 6


def test_a_fit_of_a_trained_model_goes_on_with_its_scaling(data, tmp_path):
    x, y = data
    warm, again = (fastbn.BatchNormMLP(SIZES, input_normalization="zscore") for _ in range(2))
    for model in (warm, again):
        model.partial_fit(10 * x + 5, y)
    expected = facts(warm, fit(warm, data))
    with pytest.raises(Killed):
        fit(again, data, tmp_path / "c", killed_at=20, checkpoint_every=5)
    fresh = fastbn.BatchNormMLP(SIZES, input_normalization="zscore")
    assert_same(facts(fresh, fit(fresh, data, tmp_path / "c", resume=True)), expected)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"callbacks": [3]}, TypeError),
        ({"progress": "maybe"}, ValueError),
        ({"schedule": lambda step: -1.0}, ValueError),
        ({"resume": "no"}, TypeError),
        ({"on_divergence": "hide"}, ValueError),
    ],
)
def test_a_refused_call_leaves_the_model_as_it_was(data, killed, options, error):
    model, before = fastbn.BatchNormMLP(SIZES), killed.read_bytes()
    state = pickle.dumps(model)
    with pytest.raises(error):
        fit(model, data, killed, **{"resume": True, **options})
    assert pickle.dumps(model) == state
    assert killed.read_bytes() == before


def test_a_model_that_another_thread_trains_is_left_alone(data, killed):
    model = fastbn.BatchNormMLP(SIZES)
    state = pickle.dumps(model)
    release = held_by_another_thread(model)
    with pytest.raises(RuntimeError, match="another thread"):
        fit(model, data, killed, resume=True)
    release()
    assert pickle.dumps(model) == state


def test_arguments_of_numpy_and_objects_that_cannot_be_copied(data, tmp_path):
    lock = threading.Lock()

    class Schedule:
        def __init__(self):
            self.lock = lock

        def __call__(self, step):
            return 0.01

    rule = fastbn.EarlyStopping(np.int64(3), "loss", np.float32(0.5), np.True_)
    options = {"schedule": Schedule(), "early_stopping": rule, "epochs": np.int32(3)}
    history = fit(fastbn.BatchNormMLP(SIZES), data, tmp_path / "c", **options)
    again = fit(fastbn.BatchNormMLP(SIZES), data, tmp_path / "c", resume=True, **options)
    assert again == history


def rewritten(path, change):
    """Change a checkpoint's header and tensors, and write it back."""
    tensors = load_file(path)
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["fastbn"])
    change(header, tensors)
    save_file(tensors, path, {"fastbn": json.dumps(header)})


def odd(name, value):
    """Return a change that puts a value into the header's fit."""
    return lambda header, tensors: header["fit"].update({name: value})


def odd_list(name, values, dtype=np.float64):
    """Return a change that puts a list into the tensors."""
    return lambda header, tensors: tensors.update({f"fit.{name}": np.array(values, dtype)})


CRAFTED = {
    "not begun": odd("has_begun", False),
    "begun and over": odd("is_over", True),
    "reason": odd("stop_reason", "bored"),
    "since": odd("since", -1),
    "best": odd("best", None),
    "best is none": odd("best", float("nan")),
    "counts": odd("best_counts", {"steps": 3}),
    "many counts": odd("best_counts", {"steps": 10**30, "input_is_fitted": True}),
    "best without tensors": odd("best_counts", {"steps": 3, "input_is_fitted": True}),
    "input not fitted": lambda header, tensors: header.update(input_is_fitted=False),
    "target not fitted": lambda header, tensors: header.update(target_is_fitted=False),
    "seconds": odd("seconds", "long"),
    "no facts": odd("facts", None),
    "no epochs": lambda header, tensors: header.update(epochs=0),
    "losses": odd_list("losses", 0.5),
    "more losses": odd_list("losses", [0.5] * 13),
    "losses of float32": odd_list("losses", [0.5] * 4, np.float32),
    "no losses": lambda header, tensors: tensors.pop("fit.losses"),
    "infinite losses": odd_list("losses", [0.5, 0.5, np.inf, 0.5]),
    "correct": odd_list("correct", [1, 2], np.int64),
    "hits": odd_list("correct", [1, 2, 3, 9], np.int64),
    "fewer hits": odd_list("correct", [1, 2, 3, -2], np.int64),
    "epochs": odd_list("loss", [0.5] * 7),
    "accuracy": odd_list("accuracy", []),
    "validated": odd_list("val_loss", [0.5]),
    "steps": odd_list("steps", [11], np.int64),
    "negative steps": odd_list("steps", [-5], np.int64),
    "tensor": odd_list("surprise", [1.0]),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_checkpoints_are_refused(data, tmp_path, name):
    path = tmp_path / "c"
    with pytest.raises(Killed):
        fit(fastbn.BatchNormMLP(SIZES), data, path, killed_at=16, checkpoint_every=4)
    rewritten(path, CRAFTED[name])
    model = fastbn.BatchNormMLP(SIZES)
    state = pickle.dumps(model)
    with pytest.raises(fastbn.ModelFileError, match=f"^{path}: "):
        fit(model, data, path, resume=True, checkpoint_every=4)
    assert pickle.dumps(model) == state


def test_a_signal_between_two_checks_is_not_missed(data, tmp_path, monkeypatch):
    """The signal arrives after the last callback of an epoch, when no checkpoint is due."""
    note_best, pressed = loop.Fit._note_best, []

    def press(self):
        if not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))
        note_best(self)

    monkeypatch.setattr(loop.Fit, "_note_best", press)
    path = tmp_path / "c"
    model = fastbn.BatchNormMLP(SIZES)
    history = fit(model, data, path, checkpoint_every=1000, callbacks=[lambda *_: None])
    monkeypatch.undo()
    assert history.stop_reason == "interrupted"
    whole, rest = (fastbn.BatchNormMLP(SIZES) for _ in range(2))
    expected = facts(whole, fit(whole, data))
    assert_same(facts(rest, fit(rest, data, path, resume=True, checkpoint_every=1000)), expected)


def test_the_mode_of_a_file_stays(data, tmp_path):
    path = tmp_path / "c"
    fit(fastbn.BatchNormMLP(SIZES), data, path)
    path.chmod(0o640)
    fit(fastbn.BatchNormMLP(SIZES), data, path)
    assert path.stat().st_mode & 0o777 == 0o640


def test_notes_that_are_too_long_are_refused_at_once(data, tmp_path):
    model = fastbn.BatchNormMLP(SIZES)
    model.metadata["odd"] = object()
    with pytest.raises(TypeError, match="^metadata: expected a dict that JSON can represent"):
        fit(model, data, tmp_path / "c")
    assert model.steps == 0
    model.metadata = {"notes": [[]] * 1_000_000}
    much = "^metadata: expected a header of at most [0-9,]+ bytes in memory"
    with pytest.raises(ValueError, match=much):
        model.save(tmp_path / "c")
    with pytest.raises(ValueError, match=much):
        fit(model, data, tmp_path / "c")
    assert model.steps == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("how", ["skip", "stop", "raise"])
@pytest.mark.parametrize("bad", [3, 11, 12, 23])
@pytest.mark.parametrize("every", [1, None])
def test_a_kill_right_after_a_step_that_explodes(data, tmp_path, how, bad, every):
    """Its parameters are finite and are written to a checkpoint; the next step is refused."""

    def train(path, killed_at=None):
        model = fastbn.BatchNormMLP(SIZES, optimizer="sgd", batch_norm=False, seed=7)
        try:
            history = fit(
                model, data, path, killed_at, rate=lambda step: 1e30 if step == bad else 0.02,
                on_divergence=how, checkpoint_every=every, resume=True,
            )  # fmt: skip
        except fastbn.DivergenceError as error:
            history = error.history
        return facts(model, history)

    assert goes_on(train, tmp_path, [bad + 1])["counts"][0] == bad + 1


def test_notes_of_a_checkpoint_come_back(data, tmp_path):
    model = fastbn.BatchNormMLP(SIZES)
    model.metadata = {"who": "me"}
    with pytest.raises(Killed):
        fit(model, data, tmp_path / "c", killed_at=20)
    again = fastbn.BatchNormMLP(SIZES)
    fit(again, data, tmp_path / "c", resume=True)
    assert again.metadata == {"who": "me"}
    assert fastbn.BatchNormMLP.load(tmp_path / "c").metadata == {"who": "me"}


def worsening(step):
    """A rate at which the fit becomes worse from the third epoch on."""
    return 0.01 if step < 24 else 30.0


@pytest.mark.parametrize("monitor", ["loss", "val_loss"])
def test_the_last_checkpoint_is_of_the_best_epoch(data, tmp_path, monitor):
    options = {
        "rate": worsening, "early_stopping": fastbn.EarlyStopping(2, monitor),
        "validation_data": (data[0][:50], data[1][:50]), "callbacks": [lambda *_: None],
    }  # fmt: skip
    plain, kept = (fastbn.BatchNormMLP(SIZES, optimizer="sgd") for _ in range(2))
    expected = facts(plain, fit(plain, data, **options))
    assert plain.steps < 48
    assert_same(facts(kept, fit(kept, data, tmp_path / "c", **options)), expected)
    assert np.array_equal(fastbn.BatchNormMLP.load(tmp_path / "c").params, plain.params)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kills", [[30], [40], [53], [30, 40, 53]])
@pytest.mark.parametrize("every", [None, 5])
def test_a_resumed_fit_restores_the_best_epoch(data, tmp_path, optimizer, kills, every):
    def train(path, killed_at=None):
        model = fastbn.BatchNormMLP(SIZES, optimizer=optimizer)
        history = fit(
            model, data, path, killed_at, rate=worsening, checkpoint_every=every, resume=True,
            early_stopping=fastbn.EarlyStopping(3, "loss"),
        )  # fmt: skip
        return facts(model, history)

    expected = goes_on(train, tmp_path, kills)
    assert expected["measured"]["stop_reason"] == "early_stopping"
    assert expected["counts"][0] == 24


def test_steps_that_were_skipped_before_a_kill_are_not_forgotten(data, tmp_path):
    def train(path, killed_at=None):
        model = fastbn.BatchNormMLP(SIZES, optimizer="sgd", batch_norm=False, seed=7)
        history = fit(
            model, data, path, killed_at, rate=lambda step: 0.02, on_divergence="skip",
            resume=True, checkpoint_every=5, shuffle=False,
        )  # fmt: skip
        return facts(model, history)

    data[0][24:32] *= np.float32(1e38)
    expected = goes_on(train, tmp_path, (20, 33, 50))
    assert expected["measured"]["skipped"] == [4 + 12 * epoch for epoch in range(6)]


def test_other_weights_and_targets_are_refused(data, tmp_path):
    x, _ = data
    weight, y = np.linspace(0.5, 2, 97), x[:, :4] * 2

    def train(y, weight, **options):
        model = fastbn.BatchNormMLP(SIZES, loss="squared_error")
        fit(model, (x, y), tmp_path / "c", sample_weight=weight, **options)

    with pytest.raises(Killed):
        train(y, weight, killed_at=20)
    other = y.copy()
    other[-1, -1] += 1
    for changed in ((other, weight), (y, weight[::-1]), (y, None)):
        with pytest.raises(ValueError, match="^resume: expected data as in"):
            train(*changed, resume=True)


@pytest.mark.parametrize("name", ["best.layers.0.weight", "best.optimizer.v.layers.1.beta"])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_numbers_of_the_best_epoch_are_checked(data, tmp_path, name, odd):
    path, rule = tmp_path / "c", fastbn.EarlyStopping(9, "loss")
    with pytest.raises(Killed):
        fit(fastbn.BatchNormMLP(SIZES), data, path, killed_at=30, early_stopping=rule)
    rewritten(path, lambda header, tensors: tensors[name].reshape(-1).__setitem__(0, odd))
    with pytest.raises(fastbn.ModelFileError, match=f"{name}: expected finite numbers"):
        fit(fastbn.BatchNormMLP(SIZES), data, path, resume=True, early_stopping=rule)


def marginal(optimizer, batch_norm):
    """Return a network and data: a large update makes the loss of one minibatch not finite."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (40, 6)).astype(np.float32)
    x[24:32] *= 1e3
    model = fastbn.BatchNormMLP(SIZES, seed=3, optimizer=optimizer, batch_norm=batch_norm)
    return model, (x, np.arange(40) % SIZES[-1])


def outcome(model, data, path, lr, **options):
    """Train with one large rate; return how the fit ended, and the model."""
    options = {
        "epochs": 2, "batch_size": 8, "shuffle": False, "progress": False, "checkpoint": path,
        "schedule": lambda step: lr if step == 2 else 1e-6, **options,
    }  # fmt: skip
    try:
        history = model.fit(*data, **options)
    except fastbn.DivergenceError as error:
        return (error.step, error.layer), model
    return (history.skipped, history.stop_reason), model


@pytest.mark.parametrize("how", ["skip", "stop", "raise"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_checkpoints_do_not_change_where_a_fit_diverges(tmp_path, how, optimizer, batch_norm):
    said = set()
    for power in range(8, 38):
        found = [
            outcome(
                *marginal(optimizer, batch_norm), path, 10.0**power, on_divergence=how,
                checkpoint_every=path and 1,
            )
            for path in (None, tmp_path / "c")
        ]  # fmt: skip
        assert found[0][0] == found[1][0]
        assert np.array_equal(found[0][1].params, found[1][1].params)
        said.add(str(found[0][0]))
    assert len(said) > 1


@pytest.mark.parametrize("kills", [[11], [14], [9, 12, 17]])
@pytest.mark.parametrize("every", [1, 5])
def test_steps_refused_in_a_row_are_counted_across_a_kill(data, tmp_path, kills, every):
    """Minibatches 9 to 18 are skipped; one more ends the fit. The kill may be anywhere."""

    def train(last, path, killed_at=None):
        x = data[0].copy()
        x[8 * 8 : 8 * last] = 1e38
        model = fastbn.BatchNormMLP(SIZES, seed=7)
        try:
            history = fit(
                model, (x, data[1]), path, killed_at, epochs=1, batch_size=8, shuffle=False,
                on_divergence="skip", checkpoint_every=every, resume=True,
            )  # fmt: skip
        except fastbn.DivergenceError as error:
            history = error.history
        return facts(model, history)

    data = np.tile(data[0], (2, 1)), np.tile(data[1], 2)
    for last, reason in ((18, "epochs"), (19, "diverged")):
        (folder := tmp_path / str(last)).mkdir()
        expected = goes_on(functools.partial(train, last), folder, kills)
        assert expected["measured"]["stop_reason"] == reason
        assert expected["measured"]["skipped"] == list(range(9, 19))


@pytest.mark.parametrize("how", ["skip", "stop", "raise"])
def test_a_model_that_is_not_finite_is_not_written_to_the_checkpoint(data, tmp_path, how):
    """An update makes parameters infinite; the last checkpoint is of the step before."""
    model = fastbn.BatchNormMLP(SIZES, optimizer="sgd", batch_norm=False, seed=7)
    huge, path = np.finfo(np.float64).max, tmp_path / "c"
    options = {
        "schedule": lambda step: huge if step == 20 else 0.01, "on_divergence": how,
        "checkpoint_every": 1,
    }  # fmt: skip
    if how == "stop":
        assert fit(model, data, path, **options).stop_reason == "diverged"
    else:
        with pytest.raises(fastbn.DivergenceError) as caught:
            fit(model, data, path, **options)
        assert caught.value.step == (22 if how == "raise" else 32)
    assert model.steps == 21
    assert fastbn.BatchNormMLP.load(path).steps == 20


@pytest.mark.parametrize("every", [1, 5, None])
@pytest.mark.parametrize("how", ["skip", "stop", "raise"])
def test_a_resumed_fit_that_diverges_restores_the_same_best_epoch(data, tmp_path, how, every):
    """The update of step 26 ruins the parameters; the best epoch is the second one."""

    def train(path, killed_at=None):
        model = fastbn.BatchNormMLP(SIZES, batch_norm=False, seed=7)
        try:
            history = fit(
                model, data, path, killed_at, rate=lambda step: 1e30 if step == 25 else 0.01,
                early_stopping=9, validation_data=(data[0][:20], data[1][:20]), resume=True,
                on_divergence=how, checkpoint_every=every,
            )  # fmt: skip
        except fastbn.DivergenceError as error:
            history = error.history
        return facts(model, history)

    expected = goes_on(train, tmp_path, [3, 20, 26])
    assert expected["measured"]["stop_reason"] == "diverged"
    assert expected["counts"][0] == 24
    assert_same(train(tmp_path / "parts"), expected)  # also after an error


@pytest.mark.parametrize("how", ["skip", "stop", "raise"])
def test_ctrl_c_before_a_minibatch_without_a_loss(tmp_path, how):
    pressed = []

    def press(step):
        if step == 2 and not pressed:
            pressed.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return 1e12 if step == 2 else 1e-6

    path, options = tmp_path / "c", {"on_divergence": how, "resume": True}
    (model, data), (whole, _) = marginal("sgd", False), marginal("sgd", False)
    expected = outcome(whole, data, tmp_path / "whole", 1e12, **options)[0]
    said, model = outcome(model, data, path, 1e12, schedule=press, **options)
    assert model._engine.is_finite()
    if said[1] == "interrupted":
        model, _ = marginal("sgd", False)
        said, model = outcome(model, data, path, 1e12, **options)
    assert said == expected
    assert np.array_equal(model.params, whole.params)


@pytest.mark.parametrize("how", ["stop", "raise", "skip"])
def test_ctrl_c_after_a_gradient_that_is_too_large(tmp_path, how):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (800, 6)).astype(np.float32), np.eye(4)[np.arange(800) % 4]
    x[8:16] *= 1e3
    y[8:16] *= 1e19
    model = fastbn.BatchNormMLP(SIZES, batch_norm=False, loss="squared_error")
    pressed = []

    def press(step):
        if step == 20 and not pressed:
            pressed.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return 1e-6

    said, _ = outcome(model, (x, y), tmp_path / "c", 0, schedule=press, on_divergence=how)
    assert said == {
        "stop": ([], "diverged"), "raise": (2, "layers.0"), "skip": ([2], "interrupted")
    }[how]  # fmt: skip
    assert model._engine.is_finite()
    if how != "raise":
        assert np.isfinite(fastbn.BatchNormMLP.load(tmp_path / "c").evaluate(x, y)).all()


def test_a_checkpoint_before_a_step_that_is_refused(data, tmp_path):
    """The first step of each epoch is refused."""
    x, y = data[0].astype(np.float32), data[1]
    x[:8] = 1e38

    def train(path, killed_at=None):
        model = fastbn.BatchNormMLP(SIZES)
        options = {"shuffle": False, "on_divergence": "skip", "resume": True}
        return facts(model, fit(model, (x, y), path, killed_at, **options))

    with pytest.raises(Killed):
        train(tmp_path / "c", 40)
    assert fastbn.BatchNormMLP.load(tmp_path / "c").steps == 3 * 11  # of twelve
    goes_on(train, tmp_path, [40])


def test_notes_have_to_fit_the_checkpoint(data, tmp_path, monkeypatch):
    """The header of a checkpoint is longer than that of its model."""
    model = fastbn.BatchNormMLP((6, 4000, 4))
    written = to_bytes(model)
    cost = tensor_file.header_cost(written[8 : 8 + int.from_bytes(written[:8], "little")])
    monkeypatch.setattr(tensor_file, "MAX_HEADER", cost)
    to_bytes(model)
    much = "^metadata: expected a header of at most [0-9,]+ bytes in memory"
    with pytest.raises(ValueError, match=much):
        fit(model, data, tmp_path / "c", early_stopping=fastbn.EarlyStopping(3, "loss"))
    assert model.steps == 0
    assert os.listdir(tmp_path) == []
