"""Options are defined once, and everything that uses the definition has all their names."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn import options
from fastbn.kernels import elementwise, minibatch_loss, optimizers
from fastbn.model.targets import FUNCTIONS
from fastbn.options import (
    Activation,
    DecoupledOptimizer,
    ElementwiseActivation,
    FusedActivation,
    Gradient,
    InputNormalization,
    Loss,
    Optimizer,
    TargetNormalization,
)
from fastbn.reference.activations import ELEMENTWISE
from fastbn.reference.optimizers import OPTIMIZERS, Settings, optimizer_step

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is compiled here")

OF_A_MODEL = {
    "activation": Activation, "gradient": Gradient, "loss": Loss, "optimizer": Optimizer,
    "input_normalization": InputNormalization, "target_normalization": TargetNormalization,
}  # fmt: skip


@pytest.mark.parametrize(("argument", "option"), OF_A_MODEL.items())
def test_a_model_takes_each_name_and_no_other(argument, option):
    names = get_args(option)
    for name in names:
        more = {"loss": "squared_error"} if argument == "target_normalization" else {}
        model = fastbn.BatchNormMLP((3, 4, 2), **{argument: name}, **more)
        assert getattr(model.config, argument) == name
    with pytest.raises(ValueError, match=f"^{argument}: expected .*{names[-1]}.*, got 'other'"):
        fastbn.BatchNormMLP((3, 4, 2), **{argument: "other"})


def test_each_loss_has_its_facts_and_its_function():
    assert list(options.LOSSES) == list(FUNCTIONS) == list(get_args(Loss))


def listed_in(docstring, parameter):
    """Return the names that a docstring gives for a parameter."""
    return set(re.findall('"(.+?)"', re.search(rf"\n    {parameter} : (.*)", docstring)[1]))


def test_docstrings_name_all():
    for argument, option in OF_A_MODEL.items():
        assert listed_in(fastbn.BatchNormMLP.__doc__, argument) == set(get_args(option))
    pytest.importorskip("sklearn")
    from fastbn.sklearn import BatchNormMLPClassifier, BatchNormMLPRegressor

    for cls in (BatchNormMLPClassifier, BatchNormMLPRegressor):
        assert listed_in(cls.__doc__, "activation") == set(get_args(Activation))
        assert listed_in(cls.__doc__, "solver") == {*get_args(Optimizer), "lbfgs"}


def test_activations_are_fused_or_elementwise():
    fused, apart = get_args(FusedActivation), get_args(ElementwiseActivation)
    assert get_args(Activation) == (*fused, *apart)
    for name in fused:
        assert fastbn.BatchNormMLP((3, 2), activation=name).config.elementwise_activation is None
    for name in apart:
        config = fastbn.BatchNormMLP((3, 2), activation=name).config
        assert config.elementwise_activation == name
        assert config.slope == 1


def test_codes_are_positions():
    assert elementwise.NONE == -1
    assert get_args(ElementwiseActivation)[elementwise.TANH] == "tanh"
    assert get_args(ElementwiseActivation)[elementwise.LOGISTIC] == "logistic"
    for name in get_args(Optimizer)[1:]:  # "adam" is the default and has no constant
        assert get_args(Optimizer)[getattr(optimizers, name.upper())] == name
    assert get_args(Loss)[minibatch_loss.SOFTMAX] == "softmax_cross_entropy"
    assert get_args(Loss)[minibatch_loss.SIGMOID] == "sigmoid_cross_entropy"
    with pytest.raises(ValueError, match="not in tuple"):
        options.code(Optimizer, "other")


def test_the_oracle_and_the_profile_know_all():
    assert tuple(ELEMENTWISE) == get_args(ElementwiseActivation)
    assert tuple(OPTIMIZERS) == tuple(optimizers.WORK) == get_args(Optimizer)


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_decoupled_weight_decay_is_a_shrinkage(name):
    """With a gradient and moments of 0, a step is lr * weight_decay * param; moments stay 0."""
    settings = Settings(lr=0.1, weight_decay=0.5)
    param, m, v = (float(x) for x in optimizer_step(name, 2.0, 0.0, 0.0, 0.0, settings))
    shrinks = (param, m, v) == (2.0 * (1 - 0.1 * 0.5), 0.0, 0.0)
    assert shrinks == (name in get_args(DecoupledOptimizer))


def test_the_command_offers_all(capsys):
    pytest.importorskip("typer")
    from fastbn.cli import _options

    for parameter in _options.OPTIONS:
        option = {"activation": Activation, "optimizer": Optimizer}.get(parameter.name)
        if option is not None:
            check = parameter.annotation.__metadata__[0].callback
            assert [check(name) for name in get_args(option)] == list(get_args(option))
            with pytest.raises(Exception, match=", ".join(get_args(option))):
                check("other")


def test_lists_in_words():
    assert options.listed(TargetNormalization) == '"zscore"'
    assert options.listed(InputNormalization) == '"zscore" or "minmax"'
    assert options.listed(Loss).endswith('"sigmoid_cross_entropy" or "squared_error"')
