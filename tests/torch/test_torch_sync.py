"""Synchronized batch norm of several processes, compared with one process and the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and hasattr(os, "fork")),
    reason="this PyTorch has no torch.distributed, or this system does not fork",
)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Run `ranks.py`; return the results of all processes, by world and rank."""
    import ranks

    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, ranks.__file__, str(folder)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def answers(said, world, size, check):
    """Return the results of a check in each process of a world; none may have failed."""
    assert said[world] == [0] * size
    found = [said[f"{world}-{rank}"][check] for rank in range(size)]
    for _, error in found:
        assert error is None, error
    return [value for value, _ in found]


@pytest.mark.parametrize(("world", "size"), [("two", 2), ("three", 3)])
@pytest.mark.parametrize("check", ["exact, (3,)", "exact, (3, 4, 2)"])
def test_as_one_process_with_the_joined_batch(said, world, size, check):
    first, *others = answers(said, world, size, check)
    assert first
    assert all(other == first for other in others), "all processes have the same bits"


@pytest.mark.parametrize("check", ["halves", "autocast", "second_derivatives", "compiled"])
def test_what_the_kernels_do_not_take(said, check):
    answers(said, "two", 2, check)


def test_what_it_refuses(said):
    """Errors come before any process waits for another, so both processes raise each of them."""
    for lines in answers(said, "two", 2, "refusals"):
        assert lines[:3] == [
            "TypeError input: expected torch.float32 as the module is, got torch.float64",
            "TypeError input: expected torch.bfloat16 as the module is, got torch.float32",
            "ValueError input: expected 3 channels as the module has, got 2",
        ]
        assert lines[3] == lines[4]
        assert "call eval() first" in lines[3]


@pytest.mark.parametrize("where", ["all_gather", "all_reduce"])
def test_a_rank_that_dies_half_way_leaves_no_one_waiting(said, where):
    """It dies in the forward pass, which gathers, or in the backward pass, which reduces."""
    assert said[where] == [0, -9]
    value, error = said[f"{where}-0"]["death"]
    assert value == "told: RuntimeError", error


def test_groups_and_conversion(said):
    answers(said, "three", 3, "groups_and_conversion")


def test_traces_in_the_mode_of_prediction():
    from fastbn.torch import SyncBatchNorm

    module, batch = SyncBatchNorm(3).eval(), torch.export.Dim("batch")
    exported = torch.export.export(module, (torch.randn(8, 3),), dynamic_shapes=({0: batch},))
    x = torch.randn(50, 3)
    torch.testing.assert_close(exported.module()(x), module(x))


def test_without_other_processes_it_is_plain_batch_norm():
    from fastbn.torch import SyncBatchNorm

    module, plain = SyncBatchNorm(3), torch.nn.BatchNorm1d(3)
    x = torch.randn(8, 3)
    torch.testing.assert_close(module(x), plain(x))
    torch.testing.assert_close(module.running_var, plain.running_var)
    module.eval(), plain.eval()
    torch.testing.assert_close(module(x), plain(x))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        module.train()(torch.randn(1, 3))
    with pytest.raises(ValueError, match="expected at least 2D input"):
        module(torch.randn(3))


def test_in_distributed_data_parallel(tmp_path):
    from fastbn.torch import SyncBatchNorm

    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6))
        net = SyncBatchNorm.convert_sync_batchnorm(net)
        parallel = torch.nn.parallel.DistributedDataParallel(net)
        parallel(torch.randn(8, 4)).square().sum().backward()
        assert float(net[1].weight.grad.sum()) > 0
    finally:
        dist.destroy_process_group()
