"""Processes that check synchronized batch norm together: ``python ranks.py FOLDER``.

PyTorch is imported once, in the process that forks all others. Each writes a JSON file: what its
checks returned, or how they failed.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import pathlib
import signal
import sys
import traceback

import torch
import torch._dynamo  # once for all processes: it takes seconds
import torch.distributed as dist
from torch.fx.experimental.proxy_tensor import make_fx

from fastbn.torch import SyncBatchNorm

# -- compared with one process and the whole batch -------------------------------------------------


def exact(rank, batches, shape, dtype, momentum):
    """Compare two training steps and a prediction with PyTorch's plain batch norm of all rows."""
    torch.manual_seed(0)
    module = SyncBatchNorm(3, eps=1e-3, momentum=momentum).to(dtype)
    torch.nn.init.normal_(module.weight), torch.nn.init.normal_(module.bias)
    whole = 100 + 3 * torch.randn(sum(batches), *shape, dtype=dtype)
    dys = torch.randn_like(whole)
    alone = torch.nn.SyncBatchNorm.__mro__[1](3, 1e-3, momentum)  # PyTorch's plain batch norm
    alone._check_input_dim = lambda x: None
    alone = alone.to(dtype)
    alone.load_state_dict(module.state_dict())
    first = sum(batches[:rank])
    mine = slice(first, first + batches[rank])
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    close = functools.partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    for _ in range(2):
        x = whole[mine].clone().requires_grad_()
        joined = whole.clone().requires_grad_()
        y, expected = module(x), alone(joined)
        y.backward(dys[mine])
        expected.backward(dys)
        close(y, expected[mine])
        close(x.grad, joined.grad[mine])
        for parameter in module.parameters():
            dist.all_reduce(parameter.grad)  # each process has only its part of the sum
        for one, other in zip(module.parameters(), alone.parameters(), strict=True):
            close(one.grad, other.grad)
            one.grad = other.grad = None
        for one, other in zip(module.buffers(), alone.buffers(), strict=True):
            close(one, other)
    module.eval(), alone.eval()
    close(module(whole), alone(whole))
    return module.running_var.tolist()


# -- inputs that the kernels do not support --------------------------------------------------------


def tensors(module, x, dys, second, autocast):
    if not second:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = module(x)
        y.backward(dys.to(y.dtype))
        return [y, x.grad]
    y = module(x)
    (dx,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    return [y, dx, torch.autograd.grad((dx**2).sum(), x)[0]]


def compare(
    rank, dtype, of_module, tolerance, wrap=lambda module: module, second=False, autocast=False
):
    """Compare two training steps with PyTorch's plain batch norm of all rows."""
    torch.manual_seed(0)
    whole = 2 + 3 * torch.randn(13, 3, 4, dtype=torch.float64)
    mine = slice(0, 5) if rank == 0 else slice(5, 13)
    dys = torch.randn_like(whole)
    own, alone = SyncBatchNorm(3).to(of_module), torch.nn.BatchNorm1d(3).to(of_module)
    call = wrap(own)
    for _ in range(2):
        x = whole[mine].to(dtype).requires_grad_()
        joined = whole.to(dtype).requires_grad_()
        found = tensors(call, x, dys[mine], second, autocast)
        expected = tensors(alone, joined, dys, second, autocast)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype == dtype
            torch.testing.assert_close(one, other[mine], rtol=tolerance, atol=tolerance)
        for one, other in zip(own.parameters(), alone.parameters(), strict=True):
            if one.grad is not None:
                dist.all_reduce(one.grad)
                wider = 5 * tolerance  # they are sums of many numbers
                torch.testing.assert_close(one.grad, other.grad, rtol=wider, atol=wider)
            one.grad = other.grad = None
        for one, other in zip(own.buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def halves(rank):
    compare(rank, torch.bfloat16, torch.bfloat16, 2e-2)
    compare(rank, torch.float16, torch.float16, 2e-3)
    compare(rank, torch.bfloat16, torch.float32, 1e-5)
    compare(rank, torch.float16, torch.float32, 1e-5)


def autocast(rank):
    compare(rank, torch.float32, torch.float32, 1e-5, autocast=True)
    compare(rank, torch.bfloat16, torch.float32, 1e-5, autocast=True)


def second_derivatives(rank):
    compare(rank, torch.float64, torch.float64, 1e-9, second=True)
    compare(rank, torch.float32, torch.float32, 1e-3, second=True)


def compiled(rank):
    for options in (
        {"backend": "eager", "fullgraph": True},
        {"backend": "aot_eager", "dynamic": True},
    ):
        torch.compiler.reset()
        wrap = functools.partial(torch.compile, **options)
        compare(rank, torch.float32, torch.float32, 1e-4, wrap)
        compare(rank, torch.bfloat16, torch.float32, 1e-4, wrap)


# -- the rest --------------------------------------------------------------------------------------


def refusals(rank):
    """Make wrong calls, which raise errors before any process waits for another."""
    module, x, said = SyncBatchNorm(3), torch.randn(4, 3), []
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
            said.append(f"{type(error).__name__} {error}")
    assert int(module.num_batches_tracked) == 0
    return said


def groups_and_conversion(rank):
    group = dist.new_group([0, 1])
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU())
    before = dict(model.named_parameters())
    model = SyncBatchNorm.convert_sync_batchnorm(model, group)
    assert type(model[1]) is SyncBatchNorm
    assert model[1].process_group is group
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    if rank < 2:
        model(torch.full((2, 2), float(rank)))


def death(rank, where):
    """Let the second process die in its first call of a function of `torch.distributed`."""
    module = SyncBatchNorm(3)
    module(torch.randn(4, 3)).sum().backward()
    if rank == 1:
        setattr(dist, where, lambda *given, **options: os.kill(os.getpid(), signal.SIGKILL))
    try:
        module(torch.randn(4, 3)).sum().backward()
    except RuntimeError as error:
        return f"told: {type(error).__name__}"


def exact_of(*batches):
    """Run the comparisons; batches of the processes differ in size, or are empty."""
    partial = functools.partial
    return {
        "exact, (3,)": partial(
            exact, batches=batches, shape=(3,), dtype=torch.float64, momentum=0.3
        ),
        "exact, (3, 4, 2)": partial(
            exact, batches=batches, shape=(3, 4, 2), dtype=torch.float32, momentum=None
        ),
    }


UNCOVERED = {one.__name__: one for one in (halves, autocast, second_derivatives, compiled)}

# By name: number of processes, seconds until a timeout, and the checks they run.
WORLDS = {
    "two": (2, 200, {**exact_of(5, 8), **UNCOVERED, "refusals": refusals}),
    "three": (3, 200, {**exact_of(4, 0, 9), "groups_and_conversion": groups_and_conversion}),
    **{
        where: (2, 10, {"death": functools.partial(death, where=where)})
        for where in ("all_gather", "all_reduce")
    },
}


def run_rank(rank, world, folder):
    size, patience, checks = WORLDS[world]
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/{world}", rank=rank, world_size=size,
        timeout=datetime.timedelta(seconds=patience),
    )  # fmt: skip
    said = {}
    for name, check in checks.items():
        try:
            said[name] = check(rank), None
        except Exception:
            said[name] = None, traceback.format_exc()
    (folder / f"{world}-{rank}.json").write_text(json.dumps(said))
    if "death" not in checks:
        dist.barrier()
        dist.destroy_process_group()


def main(folder):
    torch.set_num_threads(1)  # before any fork: no threads of a pool are lost
    for world, (size, _, _) in WORLDS.items():
        children = []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                run_rank(rank, world, folder)
                os._exit(0)
            children.append(child)
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        (folder / f"{world}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
