"""Data order: a permutation per epoch, a function of the seed and the sample number."""

import numpy as np
import pytest
import torch
from scipy import stats

from medsci.training.stream import SampleNumbers, SampleStream, split_batch, train_loader


class Counting:
    """A source whose slices say who they are."""

    def __init__(self, n_items):
        self.n_items = n_items

    def draw(self, item, seed):
        return torch.tensor([[[float(item), float(seed % 1000)]]])


def test_every_epoch_visits_every_item_once_in_an_order_of_its_own():
    stream = SampleStream(Counting(11), seed=5)
    items = [stream.item(n) for n in range(33)]
    epochs = [items[:11], items[11:22], items[22:]]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_sample_depends_on_its_number_and_not_on_who_was_asked_before():
    stream = SampleStream(Counting(7), seed=1)
    forward = [stream[n]["x0"] for n in range(20)]
    again = SampleStream(Counting(7), seed=1)
    for n in reversed(range(20)):
        assert torch.equal(again[n]["x0"], forward[n])
    other = SampleStream(Counting(7), seed=2)
    assert any(not torch.equal(other[n]["x0"], forward[n]) for n in range(20))


def test_the_same_item_is_augmented_anew_in_the_next_epoch():
    stream = SampleStream(Counting(1), seed=0)
    seeds = {float(stream[n]["x0"][0, 0, 1]) for n in range(50)}
    assert len(seeds) > 40


def test_augmentation_seeds_are_uniform():
    stream = SampleStream(Counting(1), seed=0)
    seeds = np.array([float(stream[n]["x0"][0, 0, 1]) for n in range(2000)]) / 1000.0
    assert stats.kstest(seeds, "uniform").pvalue > 1e-3


def test_ranks_share_a_step_without_overlap_and_resume_where_they_were():
    def numbers(rank, first):
        return list(
            SampleNumbers(lambda: first, max_steps=4, batch_size=6, rank=rank, world_size=2)
        )

    both = numbers(0, 0) + numbers(1, 0)
    assert sorted(both) == list(range(24))
    assert numbers(0, 2) == numbers(0, 0)[6:]
    single = list(SampleNumbers(lambda: 0, max_steps=4, batch_size=6))
    assert {*numbers(0, 0)[:3], *numbers(1, 0)[:3]} == set(single[:6])


def test_accumulated_parts_of_a_step_are_the_step():
    def numbers(rank, first=0):
        return list(
            SampleNumbers(
                lambda: first, max_steps=3, batch_size=8, accumulate=2, rank=rank, world_size=2
            )
        )

    assert sorted(numbers(0)[:4] + numbers(1)[:4]) == list(range(8))
    assert numbers(1, first=1) == numbers(1)[4:]
    with pytest.raises(ValueError, match="multiple of 4"):
        SampleNumbers(lambda: 0, max_steps=1, batch_size=6, accumulate=2, world_size=2)


def test_pairs_and_conditions_are_told_from_samples():
    rows = {name: torch.ones(2) for name in ("number", "x0", "noise", "label")}
    number, x0, noise, cond = split_batch(rows)
    assert noise is rows["noise"]
    assert cond == {"label": rows["label"]}
    assert split_batch({"number": number, "x0": x0})[2:] == (None, None)


def test_the_first_step_is_asked_when_iteration_starts():
    step = [0]
    sampler = SampleNumbers(lambda: step[0], max_steps=3, batch_size=1)
    step[0] = 2
    assert list(sampler) == [2]
    assert len(sampler) == 3


def test_loading_leaves_the_global_generator_alone():
    numbers = SampleNumbers(lambda: 0, max_steps=2, batch_size=2)
    before = torch.get_rng_state()
    batches = list(train_loader(SampleStream(Counting(5), seed=0), numbers, workers=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert [batch["number"].tolist() for batch in batches] == [[0, 1], [2, 3]]


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="no items"):
        SampleStream(Counting(0), seed=0)
