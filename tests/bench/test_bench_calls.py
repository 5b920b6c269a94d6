"""`fastbn bench`: predictions, single training steps and fits of estimators."""

from __future__ import annotations

import numpy as np
import pytest
from cases import JIT_DISABLED

pytest.importorskip("threadpoolctl")

from fastbn import BatchNormMLP
from fastbn.bench import _fastbn, _isa, _peers, _predict, _report, _suites, _timing, _work
from fastbn.bench._predict import FastbnPredictor, NumpyPredictor, PredictWork
from fastbn.bench._work import FitWork, StepWork
from fastbn.jit import isa

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="Python loops are not measured")

TINY = StepWork((5, 7, 3), 16)
ROWS = [PredictWork((5, 7, 6, 3), 1), PredictWork((5, 7, 6, 3), 33)]
FIT = FitWork("iris", (8,))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_timing, "REPEATS", 2)
    monkeypatch.setattr(_timing, "SECONDS", 1e-4)
    monkeypatch.setattr(_timing, "PAUSE", 0.0)


def settings(row, side):
    return [one.setting for one in row.contestants if one.side == side]


# -- predictions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["torch", "onnxruntime", "numpy"])
def test_peers_predict_the_same_probabilities(monkeypatch, peer):
    if not _peers.is_installed(peer):
        pytest.skip(f"{peer} is not installed")
    monkeypatch.setattr(_suites, "PREDICTS", ROWS)
    monkeypatch.setattr(_peers, "available_threads", lambda: 2)
    monkeypatch.delenv("FASTBN_ISA", raising=False)
    found = list(_suites.rows(["predict"], [peer]))
    assert [row.work for row in found] == ["5-7-6-3 @ 1", "5-7-6-3 @ 33"]
    for row in found:
        assert (row.suite, row.missing, row.wrong) == ("predict_proba", {}, [])
        assert 0 <= row.apart[peer] < 1e-5
        assert settings(row, "fastbn") == [""]
        assert settings(row, peer) == ["1 thread", "2 threads"]


def test_the_batch_norms_do_something():
    p = FastbnPredictor(ROWS[1])
    p.run(1)
    (probabilities,) = p.results()
    assert probabilities.shape == (33, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    plain = _fastbn.model_of(ROWS[1]).predict_proba(p.x)  # with new statistics
    assert np.abs(plain - probabilities).max() > 0.01


@pytest.mark.parametrize("which", range(4))
def test_other_batch_norms_are_marked_wrong(monkeypatch, which):
    work, norms = ROWS[1], ROWS[1].norms()
    norms[1][which] += 0.1
    ours = FastbnPredictor(work)
    monkeypatch.setattr(PredictWork, "norms", lambda self: norms)
    makers = {("fastbn", ""): lambda: ours, ("numpy", ""): lambda: NumpyPredictor(work, 1)}
    assert _suites.kernel_row("predict_proba", "w", makers, {}).wrong == ["numpy"]


def test_the_onnx_network_has_folded_weights_and_softmax():
    pytest.importorskip("onnxruntime", reason="a peer that is not installed")
    from fastbn.bench._onnx import network

    nodes = [node.op_type for node in network(ROWS[0]).graph.node]
    assert nodes == ["Gemm", "LeakyRelu", "Gemm", "LeakyRelu", "Gemm", "Softmax"]


def test_no_level_holds_onnx_runtime(monkeypatch):
    assert all(_isa.note(level, "onnxruntime") for level in isa.LEVELS)
    assert _isa.note(None, "onnxruntime") == ""
    assert [bool(_isa.note(level, "jax")) for level in isa.LEVELS] == [True, True, False]
    assert _isa.note("avx2", "torch-compile") == ""
    if _peers.is_installed("onnxruntime"):
        monkeypatch.setenv("FASTBN_ISA", "avx2")
        keys = _peers.makers("predict", ROWS[0], ["onnxruntime"])
        assert ("onnxruntime", "1 thread, processor's best") in keys


# -- single steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["torch", "jax"])
def test_peers_take_the_same_single_steps(monkeypatch, peer):
    if not _peers.is_installed(peer):
        pytest.skip(f"{peer} is not installed")
    monkeypatch.setattr(_suites, "CALLS", [TINY])
    (row,) = _suites.rows(["calls"], [peer])
    assert (row.suite, row.work, row.missing, row.wrong) == ("train_step", TINY.name, {}, [])
    assert 0 <= row.apart[peer] < 1e-5
    if peer == "jax":
        assert settings(row, "jax") == ["jit NC", "jit CN"]


def test_a_run_calls_train_step_once_a_minibatch(monkeypatch):
    calls = []
    original = BatchNormMLP.train_step

    def counted(self, x, y):
        calls.append(len(x))
        return original(self, x, y)

    ours = _fastbn.FastbnCaller(TINY)
    monkeypatch.setattr(BatchNormMLP, "train_step", counted)
    ours.run(2)
    assert calls == [16] * (2 * _work.BATCHES)
    assert ours.results()[0].shape == (2 * _work.BATCHES,)


def test_single_steps_are_those_of_the_compiled_loop():
    one, many = _fastbn.FastbnCaller(TINY), _fastbn.FastbnStepper(TINY)
    for runner in (one, many):
        runner.run(3)
    np.testing.assert_allclose(one.losses, many.losses, rtol=1e-5)


# -- fits ------------------------------------------------------------------------------------------


def fits(monkeypatch, *works):
    monkeypatch.setattr(_suites, "FITS", works)
    return list(_suites.rows(["estimators"], ["sklearn"]))


def test_estimators_fit_all_epochs(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from fastbn.bench._sklearn import FastbnFit, SklearnFit

    (row,) = fits(monkeypatch, FIT)
    assert (row.suite, row.work, row.missing, row.wrong) == ("fit of a classifier", "iris", {}, [])
    assert settings(row, "fastbn") == ["batch norm", "plain"]
    for one in (FastbnFit(FIT, batch_norm=False), SklearnFit(FIT, threads=1)):
        one.run(1)
        assert one.results() == [50]
        assert one.estimator.score(one.x, one.y) > 0.9


@pytest.mark.parametrize("name", ["iris", "wine", "digits"])
def test_data_of_fits_are_scaled(name):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x, y = FitWork(name).data()
    assert x.dtype == np.float32
    assert len(x) == len(y)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    assert set(x.std(axis=0).round(3)) <= {0.0, 1.0}


@pytest.mark.parametrize("change", [{"learning_rate_init": 1e-9}, {"max_iter": 49}])
def test_another_fit_is_marked_wrong(monkeypatch, change):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from fastbn.bench import _sklearn

    class Other(_sklearn.SklearnFit):
        def __init__(self, work, threads):
            super().__init__(work, threads)
            self.estimator.set_params(**change)

    monkeypatch.setattr(_sklearn, "SklearnFit", Other)
    (row,) = fits(monkeypatch, FIT)
    assert row.wrong == ["sklearn"]


def test_fits_that_learn_nothing_are_marked_wrong(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (row,) = fits(monkeypatch, FitWork("iris", (8,), lr=1e-9))
    assert row.wrong == ["fastbn", "sklearn"]


# -- the peers -------------------------------------------------------------------------------------


def test_onnx_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(_peers, "is_installed", lambda peer: False)
    with pytest.raises(ValueError, match="onnxruntime is not installed: pip install onnxruntime"):
        _peers.choose("onnxruntime")


def test_every_peer_has_a_look_of_its_own():
    assert set(_report.LOOKS) == set(_peers.PACKAGES)
    assert len(set(_report.LOOKS.values())) == len(_peers.PACKAGES)


def test_every_kind_of_work_has_its_contestants():
    sides = {side for kind in _peers.CLASSES.values() for side in kind}
    assert sides == {"fastbn", *_peers.PACKAGES}
    assert len(_predict.PREDICTS) == 6
    assert {work.batch for work in _predict.PREDICTS} == {1, 32, 1000}
