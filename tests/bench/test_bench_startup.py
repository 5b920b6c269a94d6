"""`fastbn bench --suite startup`: whole processes, and scripts that train like fastbn."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import os

import numpy as np
import pytest
from cases import JIT_DISABLED
from idx_files import write_idx

import fastbn
from fastbn.bench import _startup, _timing
from fastbn.bench._startup import Process, startup_rows, take_turns
from fastbn.bench._timing import Timing

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python loops are not measured")

ALL = ("torch", "torch-compile", "jax", "onnxruntime", "sklearn", "numpy")
N_TRAIN, N_TEST, PIXELS, CLASSES = 400, 100, (5, 4), 10

# Largest error of a saved array, relative to the largest number in fastbn's array. Measured:
# 1.5e-6, after twenty steps.
APART = 2e-5


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_timing, "REPEATS", 2)


@pytest.fixture(params=["numpy", "torch", "jax"])
def peer(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def images(tmp_path):
    """Return a folder with IDX files: images of ten classes that overlap a little."""
    rng = np.random.default_rng(20261123)
    prototypes = rng.integers(60, 200, (CLASSES, *PIXELS))
    for part, n, is_gzipped in (("train", N_TRAIN, True), ("t10k", N_TEST, False)):
        labels = rng.integers(0, CLASSES, n)
        pixels = (prototypes[labels] + rng.normal(0, 35, (n, *PIXELS))).clip(0, 255)
        for kind, array in (("images", pixels), ("labels", labels)):
            name = f"{part}-{kind}-idx{array.ndim}-ubyte" + ".gz" * is_gzipped
            write_idx(tmp_path / name, array.astype(np.uint8), compress=is_gzipped)
    return tmp_path


def script(side, *arguments):
    """Run a script; return what it prints."""
    return json.loads(_startup._script(side, *map(str, arguments)).run()[1])


def sides(row):
    return list(dict.fromkeys(one.side for one in row.contestants))


# -- processes -------------------------------------------------------------------------------------


def test_a_process_is_timed_and_heard():
    seconds, output = Process(("-c", "import os; print(os.environ['OF'])"), {"OF": "mine"}).run()
    assert output == "mine\n"
    assert seconds > 0


def test_a_failed_process_tells_its_last_lines():
    code = "import sys; print(*range(100), sep='\\n', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RuntimeError, match=r"exit code 3\n95\n96\n97\n98\n99$"):
        Process(("-c", code)).run()


def test_an_empty_folder_is_new_in_every_run():
    code = "import os; f = os.environ['F']; print(f, os.listdir(f)); open(f + '/used', 'w').close()"
    process = Process(("-c", code), empty="F")
    (first, held), (second, held_later) = (process.run()[1].split() for _ in range(2))
    assert held == held_later == "[]"
    assert first != second
    assert not os.path.exists(first)


class Logged:
    """A process that only records that it was started."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def run(self):
        self.log.append(self.name)
        return float(len(self.log)), f"{self.name} {len(self.log)}"


@pytest.mark.parametrize("warm_up", [True, False])
def test_processes_take_turns_in_both_orders(monkeypatch, warm_up):
    monkeypatch.setattr(_timing, "REPEATS", 3)
    log = []
    times, outputs = take_turns({name: Logged(name, log) for name in "ab"}, warm_up=warm_up)
    skipped = 2 * warm_up
    assert "".join(log) == "abab"[:skipped] + "abbaab"
    assert times["a"] == Timing.of(skipped + at for at in (1, 4, 5))
    assert outputs == {"a": f"a {skipped + 5}", "b": f"b {skipped + 6}"}


# -- scripts ---------------------------------------------------------------------------------------


def test_the_peers_scripts_do_without_fastbn():
    paths = [path for path in _startup.SCRIPTS.glob("*.py") if path.name != "fastbn_net.py"]
    assert len(paths) == 4
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            names += [getattr(node, "module", None) or ""]
            assert not any(name.split(".")[0] == "fastbn" for name in names), path.name


def test_first_steps_have_the_same_loss(peer):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((64, 64), np.float32)
    loss = fastbn.BatchNormMLP((64, 128, 10)).train_step(x, rng.integers(0, 10, 64))
    assert script("fastbn", "first-step") == {"loss": loss}
    assert script(peer, "first-step")["loss"] == pytest.approx(loss, rel=1e-6)


# PyTorch's names of the arrays that the others call layers.0.weight and so on.
TORCH_NAMES = {
    "weight": "{linear}.weight", "gamma": "{norm}.weight", "beta": "{norm}.bias",
    "running_mean": "{norm}.running_mean", "running_var": "{norm}.running_var",
}  # fmt: skip


def load_arrays(peer, path):
    """Return the arrays that a script saved, under fastbn's names."""
    if peer != "torch":
        with np.load(path) as arrays:
            return dict(arrays)
    import torch

    state = torch.load(path)
    return {
        f"layers.{index}.{ours}": state[theirs.format(linear=3 * index, norm=3 * index + 1)].numpy()
        for index in range(2)
        for ours, theirs in TORCH_NAMES.items()
    }


def test_scripts_train_as_fastbn_does(peer, images, tmp_path):
    """They have the same steps, accuracies, parameters and running statistics."""
    data = fastbn.datasets.load_fashion_mnist(images)
    model = fastbn.BatchNormMLP(
        (20, 32, 10), lr=0.05, betas=(0.9, 0.99), input_normalization="minmax"
    )
    history = model.fit(
        data.X_train, data.y_train, epochs=150, batch_size=N_TRAIN // 10, until_accuracy=0.9
    )
    assert history.stop_reason == "until_accuracy"
    assert history.epochs > 1  # otherwise a script that ignores the order could pass
    out = tmp_path / ("model.pt" if peer == "torch" else "model.npz")
    assert script(peer, "fashion-mnist", images, out) == {
        "steps": history.steps[-1],
        "accuracy": pytest.approx(history.accuracy[-1]),
        "test_accuracy": pytest.approx(model.evaluate(data.X_test, data.y_test)[1]),
    }
    arrays = load_arrays(peer, out)
    ours = model._engine.state()
    assert len(arrays) == 10
    for name, array in arrays.items():
        assert np.abs(array - ours[name]).max() < APART * np.abs(ours[name]).max(), name


# -- rows ------------------------------------------------------------------------------------------


def test_rows_of_fastbn_and_numpy(monkeypatch, images):
    """All rows except the one that compiles for half a minute."""
    monkeypatch.setattr(_startup, "empty_cache_row", lambda against: None)
    rows = [row for row in startup_rows(["numpy", "sklearn"], str(images)) if row is not None]
    assert [row.work for row in rows] == [
        "import", "first training step, warm cache", "90 % on Fashion-MNIST",
    ]  # fmt: skip
    imports, first_step, training = rows
    assert sides(imports) == ["fastbn"]
    assert imports.over_limit > 0.5
    assert sides(first_step) == sides(training) == ["fastbn", "numpy"]
    assert {row.suite for row in rows} == {"startup"}
    assert all(row.missing["sklearn"] == "has no batch norm" for row in rows)
    assert first_step.apart["numpy"] < 1e-6
    assert training.apart["numpy"] < 1e-4  # fastbn prints two digits of a percentage
    assert [row.wrong for row in rows] == [[], [], []]


@pytest.fixture
def measured(monkeypatch):
    """Record what would be run, row by row; every side gets the results in `printed`."""
    calls = []

    def pretend(processes, *, warm_up=True):
        calls.append((processes, warm_up))
        timings = dict.fromkeys(processes, Timing(1.0, 0.9, 1.1))
        return timings, {name: printed.get(name, printed[None]) for name in processes}

    printed = {None: '{"loss": 2.0, "accuracy": 0.95}'}
    monkeypatch.setattr(_startup, "take_turns", pretend)
    return calls, printed


def test_all_peers_run_at_their_best(monkeypatch, measured):
    monkeypatch.setattr(_startup, "thread_counts", lambda: [1, 4])
    calls, _ = measured
    rows = list(startup_rows(ALL, "somewhere"))
    assert [sides(row) for row in rows] == [
        ["fastbn", "torch", "jax"],
        ["fastbn", "numpy", "torch", "jax"],
        ["fastbn", "jax"],
        ["fastbn", "numpy", "torch", "jax"],
    ]
    assert list(rows[0].limits) == ["import numpy"]
    for row in rows:
        assert {*sides(row), *row.missing} == {"fastbn", *ALL}
    assert [warm_up for _, warm_up in calls] == [True, True, False, True]
    _, warm, empty, training = (processes for processes, _ in calls)
    assert empty["fastbn", ""].empty == "NUMBA_CACHE_DIR"
    assert empty["jax", "jit"].empty == "JAX_COMPILATION_CACHE_DIR"
    assert warm["jax", "jit"].environment["JAX_COMPILATION_CACHE_DIR"]
    assert training["jax", "scan"].environment == warm["jax", "jit"].environment
    for count, setting in ((1, "1 thread"), (4, "4 threads")):
        assert training["torch", setting].environment == {"OMP_NUM_THREADS": str(count)}
    assert training["fastbn", ""].environment == {"FASTBN_DATA": "somewhere"}


def test_peers_are_optional_and_so_is_the_data(measured):
    rows = list(startup_rows([], None))
    assert [sides(row) for row in rows] == [["fastbn"]] * 3
    assert [row.missing for row in rows] == [{}] * 3


def test_another_loss_is_wrong(measured):
    _, printed = measured
    printed["torch", ""] = '{"loss": 2.1}'
    _, first_step, _ = startup_rows(["torch", "numpy"], None)
    assert first_step.apart == {"torch": pytest.approx(0.05), "numpy": 0.0}
    assert first_step.wrong == ["torch"]


OUTPUT = """data      fashion-mnist: 60,000 training and 10,000 test samples
training  accuracy {} %, loss 0.2712 (last epoch, measured while training)
test      accuracy 85.57 %, loss 0.4103
stopped   {}
"""


def test_a_side_that_does_not_learn_is_wrong(monkeypatch, measured):
    monkeypatch.setattr(_startup, "thread_counts", lambda: [1, 4])
    _, printed = measured
    printed["fastbn", ""] = OUTPUT.format("90.16", "training accuracy is above 0.9")
    printed[None] = '{"accuracy": 0.9018}'
    printed["torch", "4 threads"] = '{"accuracy": 0.9}'
    row = _startup.training_row(["torch", "numpy"], "somewhere", "elsewhere", {})
    assert row.apart == {"numpy": pytest.approx(2 / 9016), "torch": math.inf}
    assert row.wrong == ["torch"]
    printed["fastbn", ""] = OUTPUT.format("89.99", "all epochs are done")
    assert _startup.training_row(["numpy"], "somewhere", "elsewhere", {}).wrong == ["fastbn"]
