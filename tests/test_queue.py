"""The queue of past embeddings against loops over the batch and the past."""

from __future__ import annotations

import copy
import itertools
import shutil

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.errors import SpecError
from contrastive.features.cache import FeatureCache
from contrastive.losses import DCL, HardNegative, InfoNCE, Matryoshka, Queue, Sigmoid
from contrastive.losses.functional import infonce
from contrastive.training.train import train
from tests.pair_losses import POSITIVES, unit
from tests.row_losses import assert_same, run_spec, slow_mean, stream


def slow_queue_infonce(a, b, a_ids, b_ids, past, *, log_scale, positives):
    """Rows choose among the batch and the past; written as the paper's loss of one row."""
    terms = []
    for side in (0, 1):
        anchors_, ids = ((a, a_ids), (b, b_ids))[side]
        others = [*((b, a)[side]), *[row[1 - side] for row in past]]
        other_ids = [*((b_ids, a_ids)[side]), *[row[2] for row in past]]
        of_side = []
        for i in range(len(anchors_)):
            x = [log_scale.exp() * (anchors_[i] * other).sum() for other in others]
            equal = [other_id == ids[i] for other_id in other_ids]
            if positives == "multi":
                chosen, kept = [j for j, e in enumerate(equal) if e], range(len(x))
            else:
                chosen = [i]
                kept = [j for j, e in enumerate(equal) if j == i or not e or positives == "ignore"]
            total = torch.log(sum(torch.exp(x[j]) for j in kept))
            of_side.append(total - sum(x[j] for j in chosen) / len(chosen))
        terms.append(slow_mean(of_side))
    return slow_mean(terms)


def slow_queue_sigmoid(a, b, a_ids, b_ids, past, *, log_scale, bias, positives):
    rows = [(x, int(i), k, True) for k, (x, i) in enumerate(zip(a, a_ids, strict=True))]
    columns = [(y, int(j), k, True) for k, (y, j) in enumerate(zip(b, b_ids, strict=True))]
    rows += [(x, i, None, False) for x, _, i in past]
    columns += [(y, i, None, False) for _, y, i in past]
    total = 0
    for (x, i, k, new), (y, j, at, also_new) in itertools.product(rows, columns):
        partner = k is not None and k == at
        if not (new or also_new) or (positives == "mask" and i == j and not partner):
            continue
        sign = 1 if (i == j if positives == "multi" else partner) else -1
        total = total + torch.log(1 + torch.exp(-sign * (log_scale.exp() * (x * y).sum() + bias)))
    return total / len(a)


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [InfoNCE, Sigmoid])
def test_the_queue_is_that_of_the_loops(loss, positives):
    module = Queue(loss=loss(positives=positives), size=10).build().double()
    past = []
    for a, b, ids in stream():
        value, figures = module(a, b, ids)
        assert figures["queue"] == len(past)
        how = {"log_scale": module.log_scale, "positives": positives}
        if loss is Sigmoid:
            how["bias"] = module.inner.bias
        slow = slow_queue_infonce if loss is InfoNCE else slow_queue_sigmoid
        true = slow(a, b, ids, ids, past, **how)
        assert_same(value, true, (a, b, *module.parameters()))
        new = list(zip(a.detach(), b.detach(), ids.tolist(), strict=True))
        past = (new + past)[:10]
        assert torch.equal(module.a_past, torch.stack([x for x, _, _ in past]))
        assert module.b_past_ids.tolist() == [i for _, _, i in past]


@pytest.mark.parametrize(
    "within", [InfoNCE(), Sigmoid(), HardNegative(beta=1), DCL(candidates="both")], ids=repr
)
def test_without_past_the_queue_is_the_loss_within(within):
    a, b, ids = unit(6, 8), unit(6, 8, seed=1), torch.tensor([0, 0, 1, 2, 3, 4])
    expected, _ = within.build()(a, b, ids)
    for size in (0, 5):
        module = Queue(loss=within, size=size).build()
        torch.testing.assert_close(module(a, b, ids)[0], expected)
    module(a, b, ids)
    assert len(module.a_past) == 5
    torch.testing.assert_close(module.eval()(a, b, ids)[0], expected)
    assert len(module.a_past) == 5


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_the_queue_keeps_a_direction(direction):
    module = Queue(loss=InfoNCE(direction=direction), size=4).build().double()
    (a, b, ids), (c, d, later) = stream(steps=2)
    module(a, b, ids)
    value, _ = module(c, d, later)
    s = module.log_scale
    x = (c, torch.cat([d, b])) if direction == "a_to_b" else (d, torch.cat([c, a]))
    true = infonce(*x, later, torch.cat([later, ids]), log_scale=s, direction="a_to_b")
    torch.testing.assert_close(value, true)


def test_a_queue_and_widths_make_the_same_loss_in_either_order():
    outer = Queue(loss=Matryoshka(loss=Sigmoid(), widths=(2, 6)), size=10).build()
    inner = Matryoshka(loss=Queue(loss=Sigmoid(), size=10), widths=(2, 6)).build()
    for a, b, ids in stream():
        results = outer(a, b, ids), inner(a, b, ids)
        assert results[0][0] == results[1][0]
    loss, figures = results[0]
    torch.testing.assert_close(figures["loss_2"] + figures["loss_6"], loss.detach())
    alone = Queue(loss=Sigmoid(), size=10).build()
    for a, b, ids in stream():
        short, _ = alone(normalize(a[:, :2], dim=1), normalize(b[:, :2], dim=1), ids)
    torch.testing.assert_close(figures["loss_2"], short.detach())


def test_rows_without_ids_are_negatives_of_all():
    module = Queue(loss=InfoNCE(), size=8).build().double()
    (a, b, _), (c, d, ids) = stream(steps=2)
    module(a, b)
    value, _ = module(c, d, ids)
    far = torch.arange(4) + 100
    s = module.log_scale
    true = (
        infonce(c, torch.cat([d, b]), ids, torch.cat([ids, far]), log_scale=s, direction="a_to_b")
        + infonce(d, torch.cat([c, a]), ids, torch.cat([ids, far]), log_scale=s, direction="a_to_b")
    ) / 2
    torch.testing.assert_close(value, true)
    without, _ = copy.deepcopy(module)(c, d)
    assert without.isfinite()


def test_the_queue_is_saved_and_comes_back():
    module, other = (Queue(loss=Sigmoid(), size=10).build() for _ in range(2))
    batches_ = list(stream(steps=4))
    for a, b, ids in batches_[:3]:
        module(a, b, ids)
    other.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module)
    a, b, ids = batches_[3]
    assert module(a, b, ids)[0] == other(a, b, ids)[0] == copied(a, b, ids)[0]
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in module.state_dict().items())


def test_past_ids_are_kept_whole_if_later_ones_are_narrow():
    module = Queue(loss=InfoNCE(), size=8).build().double()
    (a, b, ids), (c, d, later) = stream(steps=2, groups=2)
    far = ids + 2**32
    module(a, b, far)
    value, _ = module(c, d, later.int())
    s = module.log_scale
    true = (
        infonce(
            c, torch.cat([d, b]), later, torch.cat([later, far]), log_scale=s, direction="a_to_b"
        )
        + infonce(
            d, torch.cat([c, a]), later, torch.cat([later, far]), log_scale=s, direction="a_to_b"
        )
    ) / 2
    torch.testing.assert_close(value, true)


def test_the_queue_takes_pairs_of_one_width():
    module = Queue(loss=InfoNCE(), size=10).build()
    with pytest.raises(ValueError, match="4 rows of a and 5 of b"):
        module(unit(4, 3), unit(5, 3))
    module(unit(4, 3), unit(4, 3))
    with pytest.raises(SpecError, match="its embeddings are 3 wide, the batch's 2"):
        module(unit(4, 2), unit(4, 2))


@pytest.mark.slow
def test_a_run_with_a_queue_goes_on_as_if_it_had_not_stopped(tmp_path):
    spec = run_spec(tmp_path, Queue(loss=InfoNCE(), size=40), epochs=4)
    cache = FeatureCache(tmp_path / "cache")
    whole = train(spec, tmp_path / "run", cache=cache)
    steps = sorted((tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(steps[-1])
    shutil.rmtree(tmp_path / "run" / "model")
    again = train(spec, tmp_path / "run", resume=True, cache=cache)
    state, found = whole.state_dict(), again.state_dict()
    assert all(torch.equal(state[key], found[key]) for key in state)


def test_a_queue_is_told_how_many_pairs_of_modalities_there_are():
    queue = Queue(size=4, loss=InfoNCE())
    queue.check(embed_dim=8, pairs=1)
    with pytest.raises(ValueError, match="queue is for one pair of modalities, and there are 3"):
        queue.check(embed_dim=8, pairs=3)
    with pytest.raises(ValueError, match="queue is for one pair"):
        Matryoshka(loss=queue, widths=(4,)).check(embed_dim=8, pairs=3)
