import numpy as np

from tasks.learning import plain
from tasks.privacy.noise import NoiseSource


def test_every_unit_is_in_one_batch_of_an_epoch():
    """An epoch means that every unit was seen once; the order is new each time."""
    batches = list(plain._batches(10, 4, 2, NoiseSource.seeded("x")))

    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_training_lowers_the_loss(recipe, records, run):
    """The study's own optimiser, batches and epochs are used."""
    model, (x, y) = recipe("linear"), records(80)
    y = (x[:, 0] > 0).astype(np.float32)
    seen = []

    new = run(model, x, y, mode="none", epochs=20, batch_size=20, seen=seen)

    accuracy = ((x @ new["weight"][0] + new["bias"] > 0) == y).mean()
    assert accuracy > 0.95
    assert seen[-1] == (80, 80)
