"""The training order depends on the seed and the epoch, and on nothing else."""

from sat_peft.data.sampler import EpochSampler


def order(seed: int, epoch: int, rows: int = 50) -> list:
    sampler = EpochSampler(rows, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_row_comes_once_an_epoch():
    assert sorted(view.row for view in order(3, 2)) == list(range(50))


def test_order_and_views_are_those_of_seed_and_epoch():
    assert order(1, 4) == order(1, 4)
    orders = [order(seed, epoch) for seed in range(5) for epoch in range(5)]
    assert len({tuple(view.row for view in views) for views in orders}) == 25
    assert len({view.seed for views in orders for view in views}) == 25 * 50


def test_iterating_twice_gives_the_same_epoch():
    sampler = EpochSampler(10, 0)
    assert list(sampler) == list(sampler)
