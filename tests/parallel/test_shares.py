"""A team has no more threads than its products have pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cases import JIT_DISABLED

import fastbn
from fastbn.parallel import cores, team_size
from fastbn.parallel.costs import Costs
from fastbn.parallel.team_size import Product, TeamWork, TrainingTeam, busiest_flops

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="teams are of compiled code")


@pytest.fixture
def many(free):
    """Provide 64 cores that exchange data at almost no cost."""
    free.setattr(cores, "allowed_cores", lambda: 64)
    free.setattr(team_size, "measured_costs", lambda: Costs(1e-12, 1e-12, 0.0))
    return free


@pytest.mark.parametrize(
    ("pieces", "most", "expected"),
    [
        ([8], 64, 8),
        ([8], 7, 4),  # with 5 to 7 threads, one of them has two pieces, too
        ([9], 8, 5),
        ([1, 1], 64, 2),  # of at least two: one thread would do
        ([4, 32], 64, 32),
        ([1000], 64, 63),  # 16 pieces of 63 or of 64 threads
    ],
)
def test_threads_without_work_are_not_chosen(many, pieces, most, expected):
    many.setattr(cores, "allowed_cores", lambda: most)
    products = tuple(Product(1e9, count) for count in pieces)
    work = TeamWork(1e9 * len(pieces), 2, 0.0, products)
    assert TrainingTeam(work).size(1000)[0] == expected
    assert team_size.team_size(work, 1000) == (1 if max(pieces) == 1 else expected)
    equal_shares = TeamWork(work.flops, 2)
    assert team_size.team_size(equal_shares, 1000) == most


def test_a_network_of_few_tiles_gets_few_threads(many):
    """A member computes whole tiles, so 64 rows of a weight do not keep 64 threads busy."""
    model = fastbn.BatchNormMLP((20, 64, 64, 2))
    work = model.layout.team_work(64, model.dtype)
    size = team_size.team_size(work, 100000)
    assert 1 < size < 64
    assert busiest_flops(work, size) == busiest_flops(work, 64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(3, 2), (20, 64, 64, 2), (784, 32, 10)])
def test_products_are_those_of_the_step(sizes, dtype):
    layout = fastbn.BatchNormMLP(sizes, dtype=np.dtype(dtype).name).layout
    work = layout.team_work(100, np.dtype(dtype))
    assert len(work.products) == 3 * (len(sizes) - 1) - 1
    assert sum(product.flops for product in work.products) == work.flops
    assert busiest_flops(work, 1) == work.flops
    shares = [busiest_flops(work, threads) for threads in range(1, 100)]
    assert all(after <= before for before, after in itertools.pairwise(shares))
    assert all(share >= work.flops / threads for threads, share in enumerate(shares, 1))
