import torch
from hypothesis import given
from hypothesis import strategies as st

from qcnn_lightning.data.batches import Batches, EvaluationBatches, TrainingBatches, stratified_choice

numbers = st.integers(1, 200)


def flat(batches: TrainingBatches) -> list[torch.Tensor]:
    return [batch for together in batches for batch in together]


@given(
    num_images=numbers,
    batch_size=numbers,
    seed=st.integers(0, 2**32),
    per_item=st.integers(1, 30),
    epoch=st.integers(0, 1000),
)
def test_every_image_is_seen_exactly_once_an_epoch(num_images, batch_size, seed, per_item, epoch):
    batches = TrainingBatches(num_images, batch_size, seed, per_item)
    batches.set_epoch(epoch)
    together = list(batches)
    assert len(together) == len(batches)
    assert all(len(turn) == per_item for turn in together[:-1])
    assert 1 <= len(together[-1]) <= per_item
    seen = flat(batches)
    assert all(len(batch) == batch_size for batch in seen[:-1])
    assert torch.cat(seen).sort().values.tolist() == list(range(num_images))


@given(num_images=numbers, batch_size=numbers, per_item=st.integers(1, 30))
def test_how_many_batches_come_in_an_item_changes_no_batch(num_images, batch_size, per_item):
    one, several = (flat(TrainingBatches(num_images, batch_size, 3, number)) for number in (1, per_item))
    assert [batch.tolist() for batch in one] == [batch.tolist() for batch in several]


def test_several_batches_are_cut_out_of_the_images_at_once():
    images, labels = torch.randint(256, (30, 4), dtype=torch.uint8), torch.arange(30)
    for seen in (flat(TrainingBatches(30, 7, 0, 3)), flat(TrainingBatches(30, 7, 0, 3, rank=1, world_size=2))):
        turns = [seen[:3], seen[3:]]
        for turn in turns:
            batches = Batches(images, labels)[turn]
            assert [batch.tolist() for _, batch in batches] == [indices.tolist() for indices in turn]
            assert all(torch.equal(batch, images[indices]) for batch, indices in batches)


@given(
    num_images=numbers,
    batch_size=numbers,
    world_size=st.integers(1, 5),
    per_item=st.integers(1, 5),
    evaluation=st.booleans(),
)
def test_devices_share_out_each_batch(num_images, batch_size, world_size, per_item, evaluation):
    def batches(rank: int, world_size: int) -> list[torch.Tensor]:
        if evaluation:
            return list(EvaluationBatches(num_images, batch_size, rank, world_size))
        return flat(TrainingBatches(num_images, batch_size, 3, per_item, rank, world_size))

    shares = [batches(rank, world_size) for rank in range(world_size)]
    for whole, *parts in zip(batches(0, 1), *shares, strict=True):
        assert torch.equal(torch.cat(parts), whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(num_images=numbers, batch_size=numbers)
def test_evaluation_keeps_the_order_and_the_largest_batch(num_images, batch_size):
    seen = list(EvaluationBatches(num_images, batch_size))
    assert torch.cat(seen).tolist() == list(range(num_images))
    assert max(map(len, seen)) <= batch_size
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        batches = TrainingBatches(1000, 50, seed)
        batches.set_epoch(epoch)
        torch.rand(seed + epoch)  # whatever else draws random numbers
        return torch.cat(flat(batches)).tolist()

    orders = {(seed, epoch): order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert orders == {key: order(*key) for key in reversed(orders)}
    assert len({tuple(each) for each in orders.values()}) == len(orders)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_stratified_choice_takes_each_class_in_proportion(labels, data):
    labels = torch.tensor(labels)
    count = data.draw(st.integers(0, len(labels)))
    chosen = stratified_choice(labels, count)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert torch.equal(chosen, stratified_choice(labels, count))
    for label in labels.unique():
        share = count * (labels == label).sum() / len(labels)
        assert abs((labels[chosen] == label).sum() - share) <= 1 + len(labels.unique()) / 2
