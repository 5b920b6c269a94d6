"""`fastbn bench`: all sides do the same work, the winner is right, and so is the output."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from cases import JIT_DISABLED
from own_process import run_python

pytest.importorskip("threadpoolctl")

from fastbn import reference
from fastbn.bench import _fastbn, _numpy, _peers, _report, _suites, _timing, _work
from fastbn.bench._row import Contestant, Row
from fastbn.bench._timing import Timing, interleave
from fastbn.bench._work import (
    AdamWork,
    BatchNormWork,
    ModuleWork,
    ScaleWork,
    StepWork,
    random_steps,
)

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python loops are not measured")

PEERS = ["torch", "jax", "sklearn", "numpy"]  # torch-compile needs a C++ compiler and takes long
TINY = StepWork((5, 7, 3), 16)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_timing, "REPEATS", 2)
    monkeypatch.setattr(_timing, "SECONDS", 1e-4)
    monkeypatch.setattr(_timing, "PAUSE", 0.0)


def row(work="w", apart=0.0, suite="s", limit=None, **seconds):
    """Return a row whose sides take these seconds."""
    contestants = [
        Contestant(side.replace("_", "-"), "", Timing(time, time * 0.9, time * 1.1))
        for side, time in seconds.items()
    ]
    limits = {} if limit is None else {"bare products, 1 thread": Timing(limit, limit, limit)}
    peers = [one.side for one in contestants if one.side != "fastbn"]
    return Row(suite, work, contestants, limits, dict.fromkeys(peers, apart))


# -- all sides do the same work --------------------------------------------------------------------


@pytest.mark.parametrize("peer", PEERS)
def test_peers_do_the_same_work(peer):
    if not _peers.is_installed(peer):
        pytest.skip(f"{peer} is not installed")
    batch_norm = BatchNormWork(31, 5)
    makers = [
        _peers.makers("z-score", ScaleWork(50, 7), [peer]),
        _peers.makers("Adam", AdamWork("small", 9), [peer]),
        *[
            _peers.makers("batch norm", batch_norm, [peer], layout=layout)
            for layout in ("CN", "NC")
        ],
    ]
    compared = 0
    for contestants in makers:
        runners = {key: make() for key, make in contestants.items()}
        for runner in runners.values():
            runner.run(3)
        ours = next(iter(runners.values())).results()
        for runner in list(runners.values())[1:]:
            for expected, actual in zip(ours, runner.results(), strict=True):
                np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
            compared += 1
    assert compared >= (1 if peer == "sklearn" else 6)


@pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "sklearn"])
def test_peers_take_the_same_training_steps(peer):
    if not _peers.is_installed(peer):
        pytest.skip(f"{peer} is not installed")
    found = _suites.step_row("training step", "step", TINY, [peer])
    assert found.missing == {}
    assert 0 <= found.apart[peer] < 1e-5
    assert found.wrong == []
    assert {one.side for one in found.contestants} == {"fastbn", peer}
    assert all(one.timing.median > 0 for one in found.contestants)
    assert any(name.startswith("bare products") for name in found.limits)


def test_other_work_is_marked_wrong(monkeypatch):
    monkeypatch.setattr(_numpy.constants, "ADAM_EPS", 1e-2)  # the stepper reads it from there
    ours = _fastbn.FastbnStepper(TINY)
    monkeypatch.undo()
    makers = {("fastbn", ""): lambda: ours, ("numpy", ""): lambda: _numpy.NumpyStepper(TINY, 1)}
    monkeypatch.setattr(_timing, "SECONDS", 1e-4)
    monkeypatch.setattr(_peers, "makers", lambda *_: makers)
    found = _suites.step_row("training step", "step", TINY, ["numpy"])
    assert found.apart["numpy"] > 1e-3
    assert found.wrong == ["numpy"]
    assert "WRONG" in str(_report.tables([found]))
    assert "numpy in training step" in _report.summary([found])[-1]


TORCH_MODULES = [
    ModuleWork((31, 5), activation=True),
    ModuleWork((7, 3, 6), activation=False),
    ModuleWork((4, 3, 5, 2), activation=True, channels_last=True),
]


@pytest.fixture
def small_torch_suite(monkeypatch):
    monkeypatch.setattr(_suites, "MODULES", TORCH_MODULES)
    monkeypatch.setattr(_suites, "OPTIMIZERS", [AdamWork("small", 9)])
    monkeypatch.setattr(_suites, "STEPS", [TINY])


def test_replacements_of_pytorchs_modules_do_the_same_work(small_torch_suite):
    if not _peers.is_installed("torch"):
        pytest.skip("torch is not installed")
    found = list(_suites.rows(["torch"], ["torch"]))
    assert [row.suite.removeprefix("PyTorch's ") for row in found] == [
        *["batch norm"] * 3, "Adam", "training step",
    ]  # fmt: skip
    assert found[2].work == "4x3x5x2, channels last, LeakyReLU"
    for row in found:
        assert row.missing == {}
        assert 0 <= row.apart["torch"] < 1e-5
        assert {one.side for one in row.contestants} == {"fastbn", "torch"}


def test_no_sign_depends_on_rounding():
    work = ModuleWork((500, 40), activation=True)
    x, _, weight, bias = work.data()
    y = reference.batch_norm(x, weight, bias)[0]
    assert np.abs(y).min() > 0.9 * _work.CORNER
    other = ModuleWork((500, 40), activation=False).data()[0]
    assert np.abs(reference.batch_norm(other, weight, bias)[0]).min() < 0.5 * _work.CORNER


def test_modules_are_those_of_fastbn_and_of_pytorch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from fastbn.bench._torch import Adam, BatchNorm, TorchStepper

    ours, theirs = (BatchNorm(TORCH_MODULES[0], 1, way) for way in ("accelerated", "eager"))
    assert type(ours.norm).__module__.startswith("fastbn.torch")
    assert type(theirs.norm).__module__.startswith("torch.nn")
    stepper = TorchStepper(TINY, 1, "accelerated")
    adam = Adam(AdamWork("small", 9), 1, "accelerated")
    for optimizer in (adam.adam, stepper.adam):
        assert type(optimizer).__module__.startswith("fastbn.torch")
    assert any(type(part).__module__.startswith("fastbn.torch") for part in stepper.net.modules())


@pytest.mark.parametrize(("suite", "extra"), [("torch", "torch"), ("estimators", "sklearn")])
def test_a_suite_without_its_package(monkeypatch, suite, extra):
    commands = pytest.importorskip("commands")
    monkeypatch.setattr(_peers, "is_installed", lambda peer: False)
    result = commands.run("bench", "--suite", suite)
    assert result.exit_code == 1
    assert f"pip install 'fastbn[{extra}]'" in " ".join(result.output.replace("│", " ").split())
    assert list(_suites.rows([suite], [])) == []


class Fixed(_work.Runner):
    """A contestant that returns these results."""

    def __init__(self, *results):
        self.fixed = [np.array(result) for result in results]

    def once(self):
        pass

    def results(self):
        return self.fixed


@pytest.mark.parametrize("bad", [1.1, np.nan])
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_setting_and_every_result_is_compared(bad, place):
    numbers = np.ones((2, 2))
    numbers[place] = bad
    makers = {("fastbn", ""): lambda: Fixed([1.0], [1.0])}
    makers |= {
        ("numpy", f"{at}"): lambda pair=pair: Fixed([pair[0]], [pair[1]])
        for at, pair in enumerate(numbers)
    }
    found = _suites.kernel_row("s", "w", makers, {})
    assert found.wrong == ["numpy"]
    makers["fastbn", "2"] = lambda: Fixed([2.0], [1.0])
    assert _suites.kernel_row("s", "w", makers, {}).wrong == ["numpy", "fastbn"]


def test_a_nan_is_wrong():
    assert row(fastbn=1.0, numpy=2.0, apart=float("nan")).wrong == ["numpy"]


def test_a_peer_that_fails_is_missing_and_the_others_are_measured(monkeypatch):
    def fail():
        raise RuntimeError("no compiler\nat all")

    makers = {
        ("fastbn", ""): lambda: _fastbn.FastbnStepper(TINY),
        ("torch-compile", ""): fail,
        ("numpy", ""): lambda: _numpy.NumpyStepper(TINY, 1),
    }
    monkeypatch.setattr(_peers, "makers", lambda *_: makers)
    found = _suites.step_row("training step", "step", TINY, ["torch-compile", "numpy", "sklearn"])
    assert found.missing["torch-compile"] == "failed: no compiler"
    assert found.missing["sklearn"] == "has no batch norm"
    assert found.peers["numpy"] > 0


def test_a_setting_that_fails_is_reported_too(monkeypatch):
    def fail():
        raise RuntimeError("no second thread")

    makers = {
        ("fastbn", ""): lambda: Fixed([1.0]),
        ("torch", "1 thread"): lambda: Fixed([1.0]),
        ("torch", "2 threads"): fail,
    }
    found = _suites.kernel_row("s", "w", makers, {})
    assert found.missing == {"torch, 2 threads,": "failed: no second thread"}
    assert found.peers["torch"] > 0


@pytest.mark.parametrize(
    "change", [{"BETA1": 0.8}, {"BETA2": 0.99}, {"ADAM_EPS": 0.5}, {"LR": 2e-3}]
)
def test_another_adam_is_marked_wrong(monkeypatch, change):
    work = _work.ADAMS[0]
    ours = _fastbn.Adam(work)
    makers = {("fastbn", ""): lambda: ours, ("numpy", ""): lambda: _numpy.Adam(work)}
    monkeypatch.setattr(_timing, "SECONDS", 1e-4)
    assert _suites.kernel_row("Adam", "w", makers, {}).wrong == []
    ours = _fastbn.Adam(work)
    ours.run(_suites.CALLS_COMPARED)  # the figures are the right ones
    expected = ours.results()
    makers["fastbn", ""] = lambda: Fixed(*expected)
    for name, value in change.items():
        monkeypatch.setattr(_numpy.constants, name, value)
    assert _suites.kernel_row("Adam", "w", makers, {}).wrong == ["numpy"]


def test_the_table_has_the_time_of_one_thread_too(monkeypatch):
    monkeypatch.setattr(_peers, "available_threads", lambda: 2)
    monkeypatch.setattr(_timing, "SECONDS", 1e-4)
    monkeypatch.delenv("FASTBN_NUM_THREADS", raising=False)
    found = _suites.step_row("training step", "step", TINY, [])
    assert found.over_alone == found.best("fastbn").timing.median / found.alone.median
    (_, columns, (line,)) = _report.tables([found])[0]
    assert columns[-2] == "over one thread"
    assert float(line[-2]) == pytest.approx(found.over_alone, abs=0.005)
    assert "FASTBN_NUM_THREADS" not in os.environ
    monkeypatch.setattr(_peers, "available_threads", lambda: 1)
    assert _suites.step_row("training step", "step", TINY, []).over_alone is None


def test_a_failure_of_our_own_is_not_hidden(monkeypatch):
    monkeypatch.setattr(_peers, "makers", lambda *_: {("fastbn", ""): lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        _suites.step_row("training step", "step", TINY, [])


# -- timing ----------------------------------------------------------------------------------------


def test_every_round_measures_all_in_the_other_order(monkeypatch):
    monkeypatch.setattr(_timing, "SECONDS", 0.0)
    monkeypatch.setattr(_timing, "REPEATS", 4)
    calls = []
    times = interleave({name: lambda n, name=name: calls.append(name) for name in "abc"})
    assert "".join(calls[-12:]) == "abccbaabccba"
    assert set(times) == set("abc")


def test_a_timing_is_the_median_and_its_quartiles():
    timing = Timing.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)
    assert timing.spread == pytest.approx(1 / 3)


def test_jax_stays_on_the_cpu_where_it_would_take_a_gpu():
    pytest.importorskip("jax", reason="a peer that is not installed")
    pytest.importorskip("optax", reason="a peer that is not installed")
    code = "import jax, fastbn.bench._jax; print(jax.default_backend())"
    assert run_python(code, JAX_PLATFORMS="cuda").split()[-1] == "cpu"


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_names_the_winner_wherever_it_is():
    slow = row(fastbn=2.0, numpy=1.0, torch=6.0, limit=0.5)
    assert slow.winner == "numpy"
    assert slow.peers == {"numpy": 0.5, "torch": 3.0}
    assert slow.over_limit == 4.0
    assert row(fastbn=1.0, numpy=2.0).winner == "fastbn"


def test_each_side_counts_at_its_best_setting():
    best = row(fastbn=2.0, numpy=4.0)
    best.contestants += [
        Contestant("numpy", "2 threads", Timing(3.0, 3.0, 3.0)),
        Contestant("fastbn", "out=", Timing(1.0, 1.0, 1.0)),
    ]
    assert best.peers["numpy"] == 3.0
    assert best.best("numpy").setting == "2 threads"
    ((_, columns, (line,)),) = _report.tables([best])
    assert columns[:4] == ["work", "fastbn", "fastbn out=", "numpy"]
    assert line[3].startswith("3.00 ±0%, 2 threads")


def test_tables_and_summary():
    rows = [
        row("a", fastbn=1e-6, numpy=4e-6, suite="one"),
        row("b", fastbn=1e-3, numpy=1e-3, suite="one"),
        row("c", fastbn=1.0, suite="two", limit=0.8),
    ]
    rows[1].missing["sklearn"] = "has no batch norm"
    (one, columns, lines), (two, other_columns, _) = _report.tables(rows)
    assert (one, two) == ("one", "two")
    assert columns == ["work", "fastbn", "numpy", "winner"]
    assert lines[0] == ["a", "1 us ±10%", "4.00 ±10%", "fastbn"]
    assert other_columns == ["work", "fastbn", "over bare products"]
    sentences = _report.summary(rows)
    assert "2.00 times" in sentences[0]
    assert "at worst 1.00 (b)" in sentences[0]
    assert sentences[1] == "sklearn is missing in 1 row: has no batch norm"


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.61e-5, "46.1 us"), (0.01578, "15.8 ms"), (1.239, "1.24 s"), (0.9999e-3, "1 ms")],
)
def test_seconds(value, text):
    assert _report.seconds(value) == text


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "ratios.png"
    figure = _report.plot([row("a", fastbn=1.0, numpy=3.0), row("b", fastbn=1.0)], path, "title")
    assert path.read_bytes().startswith(b"\x89PNG")
    (line, _) = figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [3.0]
    with pytest.raises(ValueError, match="plot: expected rows with peers"):
        _report.plot([row(fastbn=1.0)], path, "title")


def test_a_long_title_of_a_plot_is_not_cut_off(tmp_path):
    pytest.importorskip("matplotlib")
    title = ", ".join(["a processor of many words"] * 10)
    figure = _report.plot([row("a", fastbn=1.0, numpy=3.0)], tmp_path / "ratios.svg", title)
    whole, (words,) = figure.bbox, figure.texts
    place = words.get_window_extent()
    assert whole.x0 <= place.x0 < place.x1 <= whole.x1
    assert words.get_text().replace("\n", " ") == title


def test_operations_of_a_step():
    assert StepWork((3, 5, 2), 7).flops == 2 * 7 * (2 * 15 + 3 * 10)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def small_grid(monkeypatch):
    monkeypatch.setattr(_suites, "STEPS", [TINY])


def test_command(small_grid, tmp_path, monkeypatch):
    commands = pytest.importorskip("commands")
    pytest.importorskip("matplotlib")
    files = {"--json": tmp_path / "rows.json", "--plot": tmp_path / "rows.png"}
    options = [part for option in files.items() for part in option]
    output = commands.succeed("bench", "--suite", "step", "--against", "numpy", *options)
    assert "| 5-7-3 @ 16 |" in output
    assert "training step: the best peer takes" in output
    found = json.loads(files["--json"].read_text())
    assert found["machine"]["versions"]["numpy"] == np.__version__
    (only,) = found["rows"]
    assert only["work"] == "5-7-3 @ 16"
    assert only["ratios"]["numpy"] > 0
    assert len(only["contestants"]) >= 2
    assert files["--plot"].read_bytes().startswith(b"\x89PNG")


def test_random_networks_alone(monkeypatch):
    commands = pytest.importorskip("commands")
    monkeypatch.setattr(_suites, "random_steps", lambda count: [TINY] * count)
    output = commands.succeed("bench", "--random", "2", "--against", "numpy")
    assert output.count("| 5-7-3 @ 16 |") == 2
    assert "training step" not in output


def test_random_networks_beside_a_suite(small_grid, monkeypatch):
    commands = pytest.importorskip("commands")
    options = "bench", "--suite", "step", "--against", "numpy"
    assert "random networks" not in commands.succeed(*options)
    monkeypatch.setattr(_suites, "random_steps", lambda count: [TINY] * count)
    output = commands.succeed(*options, "--random", "1")
    assert output.index("training step") < output.index("random networks")


def test_random_networks_are_always_the_same():
    drawn = random_steps(20)
    assert drawn == random_steps(20)
    assert len({work.sizes for work in drawn}) == 20
    assert {37, 1000} <= {work.batch for work in drawn}


def test_ctrl_c_keeps_what_was_measured(small_grid, tmp_path, monkeypatch):
    commands = pytest.importorskip("commands")

    def rows(*_):
        yield row("a", fastbn=1.0, numpy=3.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(_suites, "rows", rows)
    path = tmp_path / "rows.json"
    result = commands.run("bench", "--against", "numpy", "--json", path)
    assert result.exit_code == 1
    assert "interrupted after 1 rows" in result.output
    assert json.loads(path.read_text())["rows"][0]["ratios"] == {"numpy": 3.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--suite", "all of it"],
            "expected one of kernels, step, calls, predict, estimators, torch, startup, all",
        ),
        (["--against", "tensorflow"], "against: expected some of torch"),
        (["--threads", "10000"], "expected at most"),
        (["--json", "no/such/folder.json"], "does not exist"),
        (["--plot", "ratios.gnu"], "expected a name that ends in"),
    ],
)
def test_mistakes(arguments, words):
    commands = pytest.importorskip("commands")
    result = commands.run("bench", *arguments)
    assert result.exit_code in (1, 2)
    assert words in " ".join(result.output.replace("│", " ").split())


def test_a_peer_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_peers, "is_installed", lambda peer: False)
    with pytest.raises(ValueError, match="sklearn is not installed: pip install scikit-learn"):
        _peers.choose("sklearn")
    assert _peers.choose(None) == []


def test_compiling_for_a_count_is_not_timed(monkeypatch):
    """The first call with 32 or more takes long, and the samples have the intended length."""
    clock = [0.0]
    compiled = set()

    def run(count):
        clock[0] += 1.0 if count >= 32 and not compiled else 0.0
        compiled.update([count] if count >= 32 else [])
        clock[0] += count * 1e-3

    monkeypatch.setattr(_timing.time, "perf_counter", lambda: clock[0])
    for seconds in (0.05, 0.2):
        monkeypatch.setattr(_timing, "SECONDS", seconds)
        compiled.clear()
        assert _timing.calls_per_sample(run) == pytest.approx(seconds / 1e-3, abs=1)
        assert compiled
