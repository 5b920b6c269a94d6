"""Compiled functions for teams to run in tests."""

from __future__ import annotations

from fastbn.jit.compiler import njit
from fastbn.parallel import team


@njit
def relay(rounds, cells, member):
    """Write this member's cell, wait at the barrier, and read all cells: their sum is known."""
    if not team.gather_team(member):
        return
    wrong = 0
    for r in range(rounds):
        cells[member.rank] = r * (member.rank + 1)
        team.barrier(member)
        total = 0
        for k in range(member.size):
            total += cells[k]
        if total != r * member.size * (member.size + 1) // 2:
            wrong += 1
        team.barrier(member)
    cells[member.size + member.rank] = wrong
    team.leave_team(member)


@njit
def wait_at_gate(cells, member):
    """Signal that this member has arrived, wait until cells[0] is 1, and signal that it is done."""
    if not team.gather_team(member):
        return
    cells[1 + member.rank] = 1
    while team.atomic_load(cells, 0) == 0:
        team.yield_core()
    cells[1 + member.size + member.rank] = 1
    team.leave_team(member)
