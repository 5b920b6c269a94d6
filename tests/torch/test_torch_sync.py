"""Synchronized batch norm over real processes, beside one process with the joined batch."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed"
)

# Rows of each rank's batch: uneven, and empty.
BATCHES = {2: [5, 8], 3: [4, 0, 9]}

PROLOGUE = """
import datetime, sys, torch, torch.distributed as dist
from fastbn.torch import SyncBatchNorm
rank, size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size,
                        timeout=datetime.timedelta(seconds=10))
"""


def run(code, size, folder, patience=10):
    """Run the code as so many processes, each with so many seconds of patience."""
    script = folder / "rank.py"
    prologue = PROLOGUE.replace("seconds=10", f"seconds={patience}")
    script.write_text(prologue + textwrap.dedent(code))
    command = [sys.executable, str(script)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder / "store"), str(folder)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip
    return [(process.communicate(timeout=400), process.returncode) for process in processes]


EXACT = """
batches, shape, dtype = {batches}, {shape}, torch.{dtype}
torch.manual_seed(0)
module = SyncBatchNorm(3, eps=1e-3, momentum={momentum}).to(dtype)
torch.nn.init.normal_(module.weight), torch.nn.init.normal_(module.bias)
whole = 100 + 3 * torch.randn(sum(batches), *shape, dtype=dtype)
dys = torch.randn_like(whole)
alone = torch.nn.SyncBatchNorm.__mro__[1](3, 1e-3, {momentum})  # PyTorch's plain batch norm
alone._check_input_dim = lambda x: None
alone = alone.to(dtype)
alone.load_state_dict(module.state_dict())
first = sum(batches[:rank])
mine = slice(first, first + batches[rank])
tolerance = dict(rtol=1e-9, atol=1e-9) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-4)
for _ in range(2):
    x = whole[mine].clone().requires_grad_()
    joined = whole.clone().requires_grad_()
    y, expected = module(x), alone(joined)
    y.backward(dys[mine])
    expected.backward(dys)
    torch.testing.assert_close(y, expected[mine], **tolerance)
    torch.testing.assert_close(x.grad, joined.grad[mine], **tolerance)
    for parameter in module.parameters():
        dist.all_reduce(parameter.grad)  # each process has its part of the sum
    for one, other in zip(module.parameters(), alone.parameters()):
        torch.testing.assert_close(one.grad, other.grad, **tolerance)
        one.grad = other.grad = None
    for one, other in zip(module.buffers(), alone.buffers()):
        torch.testing.assert_close(one, other, **tolerance)
module.eval(), alone.eval()
torch.testing.assert_close(module(whole), alone(whole), **tolerance)
print(module.running_var.tolist())
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("shape", "dtype", "momentum"),
    [((3,), "float64", 0.3), ((3, 4, 2), "float32", None)],
)
def test_as_one_process_with_the_joined_batch(tmp_path, size, shape, dtype, momentum):
    code = EXACT.format(batches=BATCHES[size], shape=shape, dtype=dtype, momentum=momentum)
    done = run(code, size, tmp_path)
    for (_, errors), status in done:
        assert status == 0, errors[-2000:]
    assert len({out for (out, _), _ in done}) == 1, "all processes have the same bits"


OTHERWISE = """
import warnings
torch.manual_seed(0)
whole = 2 + 3 * torch.randn(13, 3, 4, dtype=torch.float64)
mine = slice(0, 5) if rank == 0 else slice(5, 13)
dys = torch.randn_like(whole)

def tensors(module, x, batch, second):
    if not second:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled={autocast}):
            y = module(x)
        y.backward(dys[batch].to(y.dtype))
        return [y, x.grad]
    y = module(x)
    (dx,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    return [y, dx, torch.autograd.grad((dx**2).sum(), x)[0]]

def compare(dtype, of_module, tolerance, wrap=lambda module: module, second=False):
    own, alone = SyncBatchNorm(3).to(of_module), torch.nn.BatchNorm1d(3).to(of_module)
    call = wrap(own)
    for _ in range(2):
        x = whole[mine].to(dtype).requires_grad_()
        joined = whole.to(dtype).requires_grad_()
        found = tensors(call, x, mine, second)
        expected = tensors(alone, joined, slice(None), second)
        for one, other in zip(found, expected):
            assert one.dtype == other.dtype == dtype
            torch.testing.assert_close(one, other[mine], rtol=tolerance, atol=tolerance)
        for one, other in zip(own.parameters(), alone.parameters()):
            if one.grad is not None:
                dist.all_reduce(one.grad)
                wider = 5 * tolerance  # sums of many
                torch.testing.assert_close(one.grad, other.grad, rtol=wider, atol=wider)
            one.grad = other.grad = None
        for one, other in zip(own.buffers(), alone.buffers()):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
{calls}
print("done")
dist.barrier()
dist.destroy_process_group()
"""

# Calls of `compare`: what the kernels do not take, beside PyTorch's plain batch norm.
CALLS = {
    "halves": """
compare(torch.bfloat16, torch.bfloat16, 2e-2)
compare(torch.float16, torch.float16, 2e-3)
compare(torch.bfloat16, torch.float32, 1e-5)
compare(torch.float16, torch.float32, 1e-5)
""",
    "autocast": "compare(torch.float32, torch.float32, 1e-5)\n"
    "compare(torch.bfloat16, torch.float32, 1e-5)",
    "second derivatives": "compare(torch.float64, torch.float64, 1e-9, second=True)\n"
    "compare(torch.float32, torch.float32, 1e-3, second=True)",
    "compiled": """
for options in ({"backend": "eager", "fullgraph": True}, {"backend": "aot_eager", "dynamic": True}):
    torch.compiler.reset()
    compare(torch.float32, torch.float32, 1e-4, lambda module: torch.compile(module, **options))
    compare(torch.bfloat16, torch.float32, 1e-4, lambda module: torch.compile(module, **options))
""",
}


@pytest.mark.parametrize("what", CALLS)
def test_what_the_kernels_do_not_take(tmp_path, what):
    code = OTHERWISE.replace("{autocast}", str(what == "autocast"))
    done = run(code.replace("{calls}", CALLS[what]), 2, tmp_path, patience=200)
    for (out, errors), status in done:
        assert (status, out) == (0, "done\n"), errors[-2000:]


def test_what_it_refuses(tmp_path):
    """Before any process waits for another: each line is said by both."""
    code = """
    from torch.fx.experimental.proxy_tensor import make_fx
    module, x = SyncBatchNorm(3), torch.randn(4, 3)
    for call in (
        lambda: module(x.double()),
        lambda: SyncBatchNorm(3).bfloat16()(x),
        lambda: module(torch.randn(4, 2)),
        lambda: make_fx(module)(x),
        lambda: torch.vmap(module)(torch.randn(2, 4, 3)),
    ):
        try:
            call()
        except (TypeError, ValueError, RuntimeError) as error:
            print(type(error).__name__, error)
    assert int(module.num_batches_tracked) == 0
    """
    done = run(code, 2, tmp_path)
    for (out, errors), status in done:
        assert status == 0, errors[-2000:]
        lines = out.splitlines()
        assert (
            lines[0]
            == "TypeError input: expected torch.float32 as the module is, got torch.float64"
        )
        assert (
            lines[1]
            == "TypeError input: expected torch.bfloat16 as the module is, got torch.float32"
        )
        assert lines[2] == "ValueError input: expected 3 channels as the module has, got 2"
        assert lines[3] == lines[4]
        assert "call eval() first" in lines[3]


def test_traces_in_the_mode_of_prediction():
    from fastbn.torch import SyncBatchNorm

    module, batch = SyncBatchNorm(3).eval(), torch.export.Dim("batch")
    exported = torch.export.export(module, (torch.randn(8, 3),), dynamic_shapes=({0: batch},))
    x = torch.randn(50, 3)
    torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize("where", ["all_gather", "all_reduce"])
def test_a_rank_that_dies_half_way_leaves_no_one_waiting(tmp_path, where):
    """In the forward pass, which gathers, and in the backward pass, which reduces."""
    code = f"""
    import os, signal
    module = SyncBatchNorm(3)
    module(torch.randn(4, 3)).sum().backward()
    if rank == 1:
        dist.{where} = lambda *given, **options: os.kill(os.getpid(), signal.SIGKILL)
    try:
        module(torch.randn(4, 3)).sum().backward()
    except RuntimeError as error:
        print("told:", type(error).__name__)
    """
    (first, _), (_, status) = run(code, 2, tmp_path)
    assert status == -9
    assert "told:" in first[0], first[1][-2000:]


def test_groups_and_conversion(tmp_path):
    code = """
    group = dist.new_group([0, 1])
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU())
    before = dict(model.named_parameters())
    model = SyncBatchNorm.convert_sync_batchnorm(model, group)
    assert type(model[1]) is SyncBatchNorm and model[1].process_group is group
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    if rank < 2:
        model(torch.full((2, 2), float(rank)))
        print(model[1].running_mean.tolist())
    """
    done = run(code, 3, tmp_path)
    for (_, errors), status in done:
        assert status == 0, errors[-2000:]


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
    code = f"""
import torch, torch.distributed as dist
from fastbn.torch import SyncBatchNorm
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=0, world_size=1)
net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6))
net = SyncBatchNorm.convert_sync_batchnorm(net)
parallel = torch.nn.parallel.DistributedDataParallel(net)
parallel(torch.randn(8, 4)).square().sum().backward()
print(float(net[1].weight.grad.sum()) > 0)
dist.destroy_process_group()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
