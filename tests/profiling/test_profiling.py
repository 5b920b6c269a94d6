"""Profiles of a training step: they add up, cost nothing when off, and do not change the bits."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math

import numba
import numpy as np
import pytest
from cases import JIT_DISABLED

from fastbn import BatchNormMLP
from fastbn.jit.intrinsics import mark
from fastbn.kernels import network_arrays as kernels
from fastbn.model.edges import logits_row_by_row
from fastbn.model.inputs import training_samples
from fastbn.profiling import _calls, _profile, _report, profile_training
from fastbn.profiling._work import NAMES, step_work

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python loops are not profiled")


@pytest.fixture(scope="module", autouse=True)
def few_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_calls, "ROUNDS", 3)
        patch.setattr(_calls, "FIRST_ROUNDS", 1)
        patch.setattr(_calls, "LONGEST_STEP", math.inf)  # whatever else the cores do
        yield


@pytest.fixture(scope="module")
def model():
    return BatchNormMLP((20, 48, 32, 3), dropout=0.1, max_norm=1.0)


@pytest.fixture(scope="module")
def profile(model):
    return profile_training(model, batch_size=64, threads=1)


@pytest.fixture(scope="module")
def by_two(model):
    if _profile.allowed_cores() < 2:
        pytest.skip("there is one core")
    return profile_training(model, batch_size=64, threads=2)


@pytest.fixture(params=["one thread", "two threads"])
def either(request, profile):
    return profile if request.param == "one thread" else request.getfixturevalue("by_two")


def test_the_parts_add_up_to_the_whole(either):
    assert sum(part.share for part in either.parts) == pytest.approx(either.accounted)
    assert 0 < either.accounted <= 1.0 + 1e-3
    assert either.seconds > 0
    found = collections.Counter()
    for _, kernel, layer, _, start, end in either.events:
        found[kernel, layer] += (end - start) / either.threads / either.steps
    for part in either.parts:
        if part.kernel != NAMES[kernels.BEGIN]:
            assert part.seconds == pytest.approx(found.pop((part.kernel, part.layer)))
    assert not found


@pytest.mark.parametrize("loss", ["sigmoid_cross_entropy", "squared_error"])
def test_models_that_predict_no_class_are_profiled(loss):
    found = profile_training(BatchNormMLP((5, 4, 3), loss=loss), batch_size=8, steps=4, threads=1)
    assert sum(part.share for part in found.parts) == pytest.approx(found.accounted)


def test_a_step_has_no_gap(either):
    for _, step in itertools.groupby(either.events, key=lambda event: (event[0], event[3])):
        inside = list(step)
        assert all(one[5] == other[4] for one, other in itertools.pairwise(inside))


def test_the_cost_of_logs(model, monkeypatch):
    run = _profile.Runner.seconds

    def seconds(runner, logs, steps):
        run(runner, logs, steps)
        return steps * (1.0 if logs[0] is None else 1.25)

    monkeypatch.setattr(_profile.Runner, "seconds", seconds)
    monkeypatch.setattr(_calls, "LONGEST_STEP", 0.5)
    profile = profile_training(model, batch_size=8, threads=1, steps=3)
    assert (profile.seconds, profile.logged_seconds, profile.cost) == (1.0, 1.25, 0.25)
    assert profile.calls is None, "a step takes so long that calls do not matter"
    assert "calls: not measured" in _report.summary(profile)[-1]
    assert profile.to_dict()["calls"] is None


def test_every_kernel_of_every_layer_is_there(profile):
    found = {(part.kernel, part.layer) for part in profile.parts}
    for layer in range(3):
        for kernel in ("product", "forward", "backward", "weight gradient", "optimizer"):
            assert (kernel, layer) in found
    assert {("gather", 0), ("gather again", 0), ("gradient norm", 0), ("loss", 2)} <= found
    assert {("input gradient", 1), ("input gradient", 2), ("dropout", 0), ("dropout", 1)} <= found
    calls = {(part.kernel, part.layer): part.calls for part in profile.parts}
    assert calls["product", 1] == calls["optimizer", 2] == 1
    assert calls["dropout", 1] == 2, "forward and backward"
    assert calls["gather", 0] == calls["product", 0] == 2, "a panel of 32 samples each"


def test_two_threads_share_the_work(by_two):
    calls = {(part.kernel, part.layer): part.calls for part in by_two.parts}
    assert calls["product", 1] == 2
    assert calls["wait for others", 2] > 0
    assert {event[0] for event in by_two.events} == {0, 1}


def test_one_thread_has_no_barriers(profile):
    assert profile.barriers == profile.ceilings.barrier == 0
    assert profile.barrier_seconds == profile.waiting_seconds == 0
    assert "barriers: none" in "\n".join(_report.summary(profile))


def test_barriers_of_two_threads(model, by_two):
    assert by_two.barriers == model.layout.barriers(64) == 10
    assert 0 < by_two.ceilings.barrier < math.inf
    assert by_two.barrier_seconds == 10 * by_two.ceilings.barrier
    waits = [part for part in by_two.parts if part.kernel == "wait for others"]
    assert by_two.waiting_seconds == pytest.approx(sum(part.seconds for part in waits))
    text = "\n".join(_report.summary(by_two))
    assert "; a barrier " in text
    assert "barriers: 10 a step" in text


def test_a_wide_first_layer_saves_barriers():
    if _profile.allowed_cores() < 2:
        pytest.skip("there is one core")
    model = BatchNormMLP((8, 64, 3))
    assert profile_training(model, batch_size=32, threads=2, steps=5).barriers == 2 * 2 + 1


def test_calls(either):
    calls = dataclasses.asdict(either.calls)
    assert calls.pop("epoch_steps") == _calls.EPOCH_STEPS
    assert set(calls) == {"train_step", "epoch", "fit", "prediction"}
    assert all(math.isfinite(cost) for cost in calls.values())  # noise may be negative
    text = "\n".join(_report.summary(either))
    for call in (
        "train_step",
        "an epoch of fit",
        "a fit of one epoch",
        "predict_logits of one row",
    ):
        assert f"{call} takes " in text


def test_one_row_at_a_time_gives_the_logits(model):
    x = np.random.default_rng(1).standard_normal((5, 20)).astype(np.float32)
    alone = [model.predict_logits(x[n : n + 1])[0] for n in range(5)]
    np.testing.assert_array_equal(logits_row_by_row(model, x), alone)


def test_the_figures_for_json(either):
    figures = json.loads(json.dumps(either.to_dict()))
    for name in ("accounted", "barriers", "barrier_seconds", "waiting_seconds"):
        assert figures[name] == getattr(either, name)
    assert figures["ceilings"]["barrier"] == either.ceilings.barrier
    assert figures["calls"] == dataclasses.asdict(either.calls)
    assert "events" not in figures


def test_operations_and_bytes(model, profile):
    work = step_work(model, 64)
    products = (kernels.PRODUCT, kernels.WEIGHT_GRADIENT, kernels.INPUT_GRADIENT)
    flops = sum(one.flops for (kind, _), one in work.items() if kind in products)
    assert flops == model.layout.gemm_flops(64)
    one = work[kernels.PRODUCT, 1]
    assert one.flops == 2 * 64 * 48 * 32
    assert (one.read, one.written) == (4 * (48 * 32 + 64 * 48), 4 * 64 * 32)
    updates = sum(w.read + w.written for (kind, _), w in work.items() if kind == kernels.UPDATE)
    assert updates == 28 * model.layout.n_parameters
    assert {kind for kind, _ in work} <= set(NAMES)
    for part in profile.parts:
        assert (part.limit > 0) == (part.bytes > 0)
        if part.bytes:
            assert part.of_limit == pytest.approx(part.limit / part.seconds)


def test_limits_of_the_machine(profile):
    ceilings = profile.ceilings
    assert ceilings.flops > 1e8
    assert len(ceilings.copy) == len(ceilings.read) == len(ceilings.sizes)
    assert min(*ceilings.copy, *ceilings.read) > 1e7
    work = step_work(BatchNormMLP((20, 48, 3)), 64)[kernels.FORWARD, 0]
    assert ceilings.seconds(work) >= work.flops / ceilings.flops


def test_the_model_is_left_as_it_is(model):
    before, steps = model.params.copy(), model.steps
    profile_training(model, batch_size=8, threads=1, steps=3)
    np.testing.assert_array_equal(model.params, before)
    assert model.steps == steps


def test_logs_change_no_bits_and_cost_nothing_when_off():
    """A step with logs is compiled separately and has the same results."""
    x = np.random.default_rng(0).standard_normal((90, 20)).astype(np.float32)
    results = []
    for logs in ([None], [np.zeros((4000, 2), np.int64)], [np.zeros((1, 2), np.int64)]):
        model = BatchNormMLP((20, 48, 3))
        samples = training_samples(model, x, np.arange(90) % 3, None)
        bounds = np.array([0, 30, 60, 90])
        model._engine.run_steps(samples, np.arange(90), bounds, np.full(3, 0.01), logs)
        results.append(model.params.copy())
        if logs[0] is not None:
            assert logs[0][0, 0] > 60, "marks are counted, with room or without"
            times = logs[0][1 : 1 + logs[0][0, 0], 0]
            assert (np.diff(times) >= 0).all()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


def marked(log, x):
    mark(log, 3)
    return x + 1


def bare(log, x):
    return x + 1


def llvm_of(function, log):
    kernel = numba.njit(function)
    kernel(log, 1)
    (code,) = kernel.inspect_llvm().values()
    return code


def test_without_a_log_the_marks_compile_to_nothing():
    log, clocks = np.zeros((8, 2), np.int64), ("readcyclecounter", "cntvct")
    assert any(clock in llvm_of(marked, log) for clock in clocks)
    assert not any(clock in llvm_of(marked, None) for clock in clocks)
    lines = [len(llvm_of(function, None).splitlines()) for function in (marked, bare)]
    assert lines[0] == lines[1]


def test_the_table(profile):
    lines = _report.rows(profile)
    assert all(len(line) == len(_report.COLUMNS) for line in lines)
    assert lines[-1][1] == "all parts"
    shares = [float(line[4].rstrip("%")) for line in lines[:-2]]
    assert shares == sorted(shares, reverse=True)
    text = "\n".join(_report.summary(profile))
    assert "20-48-32-3 @ 64" in text
    assert "GFLOP/s" in text


def test_the_trace_is_one_that_viewers_open(by_two, tmp_path):
    path = tmp_path / "trace.json"
    written = _report.write_trace(by_two, path)
    assert 100 < written <= by_two.steps
    events = json.loads(path.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in spans} == {0, 1}
    steps = [event for event in spans if event["cat"] == "step" and event["tid"] == 0]
    assert len(steps) == written
    inside = [e for e in spans if e["tid"] == 0 and e["cat"] != "step"]
    for event in inside[:50]:
        assert event["dur"] >= 0
        first = steps[0]
        if event["ts"] < first["ts"] + first["dur"]:
            assert first["ts"] <= event["ts"]
            assert event["ts"] + event["dur"] <= first["ts"] + first["dur"] + 1e-2
    assert sum(e["dur"] for e in inside) == pytest.approx(sum(e["dur"] for e in steps), rel=0.02)


def test_a_long_trace_is_cut(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "MOST_EVENTS", 1000)
    assert 1 <= _report.write_trace(profile, tmp_path / "trace.json") < 60


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_roofline(profile, tmp_path, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"roofline.{ending}"
    _report.plot(profile, path)
    start = {"png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 1}, ValueError, "batch_size: expected .* 2"),
        ({"threads": 0}, ValueError, "threads"),
        ({"threads": 100_000}, ValueError, "threads: expected at most"),
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": 1.5}, TypeError, "steps"),
    ],
)
def test_arguments(model, arguments, error, message):
    with pytest.raises(error, match=message):
        profile_training(model, **arguments)


def test_the_command(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from commands import run, succeed

    monkeypatch.chdir(tmp_path)
    BatchNormMLP((5, 7, 3), batch_norm=False, optimizer="sgd").save("m.safetensors")
    output = succeed(
        "profile", "m.safetensors", "--batch", "16", "--threads", "1", "--steps", "30",
        "--json", "p.json", "--plot", "p.svg", "--trace", "t.json",
    )  # fmt: skip
    assert "5-7-3 @ 16, float32, sgd, 1 thread" in output
    assert "| all parts" in output
    figures = json.loads((tmp_path / "p.json").read_text())
    assert figures["layer_sizes"] == [5, 7, 3]
    assert {"layer", "kernel", "seconds", "of_limit"} <= set(figures["parts"][0])
    assert figures["barriers"] == 0
    assert math.isfinite(figures["calls"]["train_step"])
    assert "train_step takes" in output
    assert (tmp_path / "p.svg").exists()
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    sizes = succeed("profile", "5,7,3", "--batch", "8", "--threads", "1", "--steps", "5")
    assert "5-7-3 @ 8, float32, adam" in sizes
    for arguments, message in (
        (["5-x-3"], "expected a model file, or layer sizes"),
        (["5-7-3", "--batch", "1"], "batch_size"),
        (["5-7-3", "--json", "no/p.json"], "does not exist"),
        (["m.safetensors", "--json", "m.safetensors"], "would be overwritten"),
        (["5-7-3", "--plot", "p.txt"], "expected a name that ends in"),
        (["p.json"], "p.json"),
    ):
        result = run("profile", *arguments)
        assert result.exit_code != 0
        assert message in " ".join(result.output.replace("│", " ").split())
