"""Losses of pytorch-metric-learning under the contract of ours: its values, our batches."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contrastive_metric_learning import (
    Angular,
    Circle,
    ContrastiveMargin,
    LiftedStructure,
    MetricLoss,
    MultiSimilarity,
    NTXent,
    SNRContrastive,
    SupCon,
    TripletMargin,
    miners,
)
from contrastive_metric_learning.miners import Miner
from pytorch_metric_learning import losses as library_losses
from pytorch_metric_learning import miners as library_miners
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive import FeatureCache, ModelSpec, RunSpec, load_model, train
from contrastive.interface import MissingExtra, SpecError, json_schema, load_spec, losses
from tests.toys import toy_dict

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
IDS = torch.tensor([0, 0, 1, 2, 3, 1])


# Each with fields that are not the default: so they arrive, and nothing is beyond a margin.
LOSSES = {
    "pml-angular": (Angular(alpha=35), library_losses.AngularLoss(alpha=35)),
    "pml-circle": (Circle(m=0.3, gamma=8), library_losses.CircleLoss(m=0.3, gamma=8)),
    "pml-contrastive": (
        ContrastiveMargin(pos_margin=0.1, neg_margin=2),
        library_losses.ContrastiveLoss(pos_margin=0.1, neg_margin=2),
    ),
    "pml-lifted-structure": (
        LiftedStructure(pos_margin=0.1, neg_margin=2),
        library_losses.GeneralizedLiftedStructureLoss(pos_margin=0.1, neg_margin=2),
    ),
    "pml-multi-similarity": (
        MultiSimilarity(alpha=3, beta=9, base=0.4),
        library_losses.MultiSimilarityLoss(alpha=3, beta=9, base=0.4),
    ),
    "pml-nt-xent": (NTXent(temperature=0.2), library_losses.NTXentLoss(temperature=0.2)),
    "pml-snr-contrastive": (
        SNRContrastive(pos_margin=0.1, neg_margin=3),
        library_losses.SignalToNoiseRatioContrastiveLoss(pos_margin=0.1, neg_margin=3),
    ),
    "pml-supcon": (SupCon(temperature=0.2), library_losses.SupConLoss(temperature=0.2)),
    "pml-triplet-margin": (
        TripletMargin(margin=0.3, smooth=True),
        library_losses.TripletMarginLoss(margin=0.3, smooth_loss=True),
    ),
}
MINERS = {
    "angular": (miners.Angular(angle=25), library_miners.AngularMiner(angle=25)),
    "batch-hard": (miners.BatchHard(), library_miners.BatchHardMiner()),
    "multi-similarity": (
        miners.MultiSimilarity(epsilon=0.2),
        library_miners.MultiSimilarityMiner(epsilon=0.2),
    ),
    "pair-margin": (
        miners.PairMargin(pos_margin=0.5, neg_margin=1.4),
        library_miners.PairMarginMiner(pos_margin=0.5, neg_margin=1.4),
    ),
    "triplet-margin": (
        miners.TripletMargin(margin=0.3, triplets="semihard"),
        library_miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard"),
    ),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_miner = pytest.mark.parametrize("miner", [None, *MINERS])
both_candidates = pytest.mark.parametrize("candidates", ["other", "both"])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def pairs(n=6, d=7, *, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return [
        normalize(torch.randn(n, d, generator=random, dtype=dtype)).requires_grad_() for _ in "ab"
    ]


def gradients(loss, rows):
    return torch.autograd.grad(loss, rows)


def by_hand(loss, miner, a, b, ids, candidates):
    """Return the loss as one calls the library, with tensors of their own for each side."""
    if candidates == "both":
        rows, labels = torch.cat([a, b]), torch.cat([ids, ids])
        return loss(rows, labels, miner and miner(rows, labels))
    found = []
    for own, other in ((a, b), (b, a)):
        others = {"ref_emb": other, "ref_labels": ids.clone()}
        found.append(loss(own, ids, miner and miner(own, ids, **others), **others))
    return sum(found) / 2


@every_loss
@every_miner
@both_candidates
def test_value_and_gradients_are_the_librarys(name, miner, candidates):
    ours, theirs = LOSSES[name]
    mine, their = MINERS[miner] if miner else (None, None)
    a, b = pairs()
    truth = by_hand(theirs, their, a, b, IDS, candidates)
    found, _ = ours.model_copy(update={"miner": mine, "candidates": candidates}).build()(a, b, IDS)
    torch.testing.assert_close(found, truth)
    torch.testing.assert_close(gradients(found, (a, b)), gradients(truth, (a, b)))
    assert truth > 0


def mean_of_positive(numbers):
    counted = [x for x in numbers if x > 0]
    return sum(counted) / len(counted)


def triplet_margin(distance, positives, negatives):
    margins = [
        distance(i, p) - distance(k, n) for i, p in positives for k, n in negatives if i == k
    ]
    return mean_of_positive([x + 0.3 for x in margins])


def contrastive_margin(distance, positives, negatives):
    near = mean_of_positive([distance(i, j) - 0.1 for i, j in positives])
    return near + mean_of_positive([1.5 - distance(i, j) for i, j in negatives])


def in_a_loop(loss, anchors, ids, others, other_ids, *, one_set):
    """Return the loss of anchors among others, one pair after the other."""

    anchors, others = (x / x.square().sum(1, keepdim=True).sqrt() for x in (anchors, others))

    def distance(i, j):
        return (anchors[i] - others[j]).square().sum().sqrt()

    every = [(i, j) for i in range(len(ids)) for j in range(len(other_ids))]
    every = [(i, j) for i, j in every if not (one_set and i == j)]
    positives = [(i, j) for i, j in every if ids[i] == other_ids[j]]
    return loss(distance, positives, [pair for pair in every if pair not in positives])


SLOW = [
    (TripletMargin(margin=0.3), triplet_margin),
    (ContrastiveMargin(pos_margin=0.1, neg_margin=1.5), contrastive_margin),
]


@pytest.mark.parametrize(("config", "slow"), SLOW, ids=["triplet-margin", "contrastive"])
@both_candidates
def test_value_and_gradients_are_those_of_a_loop_over_pairs(config, slow, candidates):
    a, b = pairs()
    if candidates == "both":
        rows, ids = torch.cat([a, b]), torch.cat([IDS, IDS])
        truth = in_a_loop(slow, rows, ids, rows, ids, one_set=True)
    else:
        there, back = (in_a_loop(slow, x, IDS, y, IDS, one_set=False) for x, y in ((a, b), (b, a)))
        truth = (there + back) / 2
    found, _ = config.model_copy(update={"candidates": candidates}).build()(a, b, IDS)
    torch.testing.assert_close(found, truth)
    torch.testing.assert_close(gradients(found, (a, b)), gradients(truth, (a, b)))


@every_loss
@every_miner
@both_candidates
def test_every_combination_has_a_finite_value_and_gradient_for_any_batch(name, miner, candidates):
    update = {"miner": MINERS[miner][0] if miner else None, "candidates": candidates}
    module = LOSSES[name][0].model_copy(update=update).build()
    for n, ids in [(6, None), (6, IDS), (6, torch.zeros(6).long()), (2, None), (1, None)]:
        a, b = pairs(n, dtype=torch.float32)
        loss, figures = module(a, b, ids)
        assert loss.isfinite()
        assert loss.dtype == torch.float32
        assert all(grad.isfinite().all() for grad in gradients(loss, (a, b)))
        assert figures.keys() == {"accuracy", "collisions", "log_scale"}


@every_loss
@both_candidates
def test_rows_of_one_group_attract_and_others_repel(name, candidates):
    """All rows are orthogonal: what b_1 gains along a_0 is what the two do to each other."""
    config = LOSSES[name][0].model_copy(update={"candidates": candidates})
    pulls = []
    for ids in (IDS, torch.arange(6)):
        rows = torch.eye(12, dtype=torch.float64)
        a, b = rows[:6].requires_grad_(), rows[6:].detach().requires_grad_()
        loss, _ = config.build()(a, b, ids)
        pulls.append(-gradients(loss, [b])[0][1, 0])
    together, apart = pulls
    assert together > 0 > apart


@every_loss
@both_candidates
def test_without_ids_row_i_matches_row_i(name, candidates):
    module = LOSSES[name][0].model_copy(update={"candidates": candidates}).build()
    a, b = pairs()
    loss, figures = module(a, b)
    assert loss == module(a, b, torch.arange(6), torch.arange(6))[0]
    assert figures["collisions"] == 0


@every_loss
@every_miner
def test_one_tensor_for_both_sides_does_not_take_partners_away(name, miner):
    """The library knows by identity whether two sides are one set."""
    update = {"miner": MINERS[miner][0] if miner else None}
    module = LOSSES[name][0].model_copy(update=update).build()
    a, b = pairs()
    assert module(a, b, IDS)[0] == module(a, b, IDS, IDS)[0] == module(a, b, IDS, IDS.clone())[0]
    assert module(a, a, IDS)[0] == module(a, a.clone(), IDS)[0]


@every_loss
@every_miner
@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_anchors_may_be_of_one_side(name, miner, direction):
    ours, theirs = LOSSES[name]
    mine, their = MINERS[miner] if miner else (None, None)
    a, b = pairs()
    anchors, others = (a, b) if direction == "a_to_b" else (b, a)
    references = {"ref_emb": others, "ref_labels": IDS.clone()}
    truth = theirs(anchors, IDS, their and their(anchors, IDS, **references), **references)
    found, _ = ours.model_copy(update={"miner": mine, "direction": direction}).build()(a, b, IDS)
    torch.testing.assert_close(found, truth)


def test_one_set_has_no_direction():
    with pytest.raises(SpecError, match=r"direction a_to_b.* needs candidates: other"):
        Circle(candidates="both", direction="a_to_b")
    queue = losses["queue"](loss=Circle(candidates="both"), size=4)
    with pytest.raises(SpecError, match=r"with .* needs candidates: other$"):
        queue.build()


def test_queues_and_widths_go_around_them():
    (a, b), (c, d) = pairs(), pairs(seed=1)
    queue = losses["queue"](loss=TripletMargin(), size=6).build().double()
    queue(a, b, IDS)
    found, _ = queue(c, d, IDS)
    past = torch.cat([IDS, IDS])
    there, _ = TripletMargin(direction="a_to_b").build()(c, torch.cat([d, b]), IDS, past)
    back, _ = TripletMargin(direction="b_to_a").build()(torch.cat([c, a]), d, past, IDS)
    torch.testing.assert_close(found, (there + back) / 2)
    narrow = [normalize(x[:, :4]) for x in (a, b)]
    found, _ = losses["matryoshka"](loss=Circle(), widths=(4, 7)).build()(a, b, IDS)
    torch.testing.assert_close(found, sum(Circle().build()(*x, IDS)[0] for x in (narrow, (a, b))))


@every_loss
def test_autocast_changes_nothing(name):
    module = LOSSES[name][0].build()
    a, b = pairs(dtype=torch.float32)
    halves = [x.bfloat16() for x in (a, b)]
    with torch.autocast("cpu", torch.bfloat16):
        found, of_halves = module(a, b, IDS)[0], module(*halves, IDS)[0]
    assert torch.equal(found, module(a, b, IDS)[0])
    assert torch.equal(of_halves, module(*(x.float() for x in halves), IDS)[0])


@every_loss
def test_no_temperature_is_trained(name):
    module = LOSSES[name][0].build()
    assert list(module.parameters()) == []
    config = LOSSES[name][0].model_copy(update={"temperature": 0.5})
    a, b = pairs()
    torch.testing.assert_close(config.build().logits(a, b), 2 * a @ b.T)
    changed = config.build()(a, b, IDS)[0] != module(a, b, IDS)[0]
    assert changed == (name in {"pml-nt-xent", "pml-supcon"})


# Specs and models


@every_loss
def test_a_spec_finds_losses_by_name_and_writes_that_name(name):
    config = LOSSES[name][0]
    assert losses[name] is type(config)
    assert losses.package_of(type(config)) == ("contrastive-metric-learning", "0.1.0")
    config = config.model_copy(update={"miner": MINERS["batch-hard"][0]})
    assert type(config).choose(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", MINERS)
def test_a_spec_finds_miners_by_name(name):
    found = TripletMargin.model_validate({"miner": {"type": name}}).miner
    assert type(found) is type(MINERS[name][0])


def test_others_add_miners(monkeypatch):
    monkeypatch.setattr(miners.miners, "registered", {})

    @miners.miners.register("distance-weighted")
    class Easy(Miner):
        def build(self):
            return library_miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="easy")

    config = TripletMargin.model_validate({"miner": {"type": "distance-weighted"}})
    assert type(config.miner) is Easy
    a, b = pairs()
    truth = by_hand(
        library_losses.TripletMarginLoss(), Easy().build(), a, b, IDS, candidates="other"
    )
    torch.testing.assert_close(config.build()(a, b, IDS)[0], truth)


MISTAKES = {
    "miner: {type: batch-hrad}": (
        "loss.miner: unknown miner 'batch-hrad'; did you mean 'batch-hard'?"
    ),
    "miner: {type: pair-margin, pos_margn: 1}": (
        "loss.miner.pos_margn: unknown field; did you mean 'pos_margin'?"
    ),
    "margn: 1": "loss.margn: unknown field; did you mean 'margin'?",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake, tmp_path):
    text = yaml().partition("  margin:")[0]
    (tmp_path / "clip.yaml").write_text(f"{text}  {mistake}\n")
    with pytest.raises(SpecError) as told:
        load_spec(ModelSpec, tmp_path / "clip.yaml")
    line = text.count("\n") + 1
    assert str(told.value) == f"{tmp_path / 'clip.yaml'}:{line}: {MISTAKES[mistake]}"


@pytest.mark.slow
def test_the_menus_import_no_framework():
    code = (
        "import sys; from contrastive.losses import losses;"
        "losses['pml-circle'].model_validate({'miner': {'type': 'angular'}});"
        "print({'torch', 'pytorch_metric_learning', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(MissingExtra, match="pip install contrastive-metric-learning"):
        Circle().build()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pml-triplet-margin", "pml-supcon"])
def test_a_model_learns_and_loads(name, tmp_path):
    spec = toy_dict(tmp_path / "data", epochs=4)
    miner = {"type": "multi-similarity", "epsilon": 0.5}
    spec["model"]["loss"] = {"type": name, "miner": miner, "temperature": 0.2}
    spec = RunSpec.model_validate(spec)
    model = train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    log = [line["loss"] for line in lines if "loss" in line]
    assert log[-1] < log[0]
    loaded = load_model(tmp_path / "run")
    assert loaded.spec == model.spec
    assert loaded.scale == pytest.approx(5)
    texts = ["a red circle", "a blue square"]
    torch.testing.assert_close(loaded.embed("text", texts), model.eval().embed("text", texts))


# The page


def yaml():
    return re.search(r"^```yaml\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)[1]


def test_the_spec_of_the_readme_is_one(tmp_path):
    (tmp_path / "clip.yaml").write_text(yaml())
    loss = load_spec(ModelSpec, tmp_path / "clip.yaml").loss
    assert loss == TripletMargin(margin=0.2, miner=miners.BatchHard())


def test_the_tables_of_the_readme_have_every_component_and_field():
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \| (.*)\|$", README.read_text(), re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert names == [*(x for x in names if x in LOSSES), *(x for x in names if x not in LOSSES)]
    assert sorted(names) == sorted([*LOSSES, *MINERS])
    for name, library_class, fields in rows:
        config, theirs = {**LOSSES, **MINERS}[name]
        common = {*MetricLoss.model_fields} - (
            {"temperature"} if isinstance(config, NTXent) else set()
        )
        own = {*type(config).model_fields} - common - {"type"}
        assert {*re.findall(r"`(\w+)`", fields)} == own
        assert type(theirs).__name__ == library_class


def test_the_schema_knows_the_losses_and_that_a_miner_is_an_object():
    definitions = json_schema(ModelSpec, losses)["$defs"]
    assert LOSSES.keys() <= {*definitions["loss"]["properties"]["type"]["anyOf"][0]["enum"]}
    assert definitions["Circle"]["properties"]["miner"]["anyOf"][0] == {"type": "object"}
    with_miners = json_schema(ModelSpec, losses, miners.miners)["$defs"]
    assert with_miners["miner"]["properties"]["type"]["anyOf"][0]["enum"] == sorted(MINERS)


@pytest.mark.parametrize("miner", MINERS)
def test_the_angular_loss_takes_all_negatives_of_the_positives_that_a_miner_chose(miner):
    a, b = pairs()
    mined = MINERS[miner][1](a, IDS, b, IDS.clone())
    sharpness = 4 * torch.tensor(35.0, dtype=torch.float64).deg2rad().tan() ** 2
    each = []
    for i, p in zip(*mined[:2], strict=True):
        others = torch.stack([b[j] for j in range(6) if IDS[j] != IDS[i]])
        angles = sharpness * others @ (a[i] + b[p]) - (2 + sharpness / 2) * (a[i] @ b[p])
        each.append(angles.exp().sum().log1p())
    config = Angular(alpha=35, miner=MINERS[miner][0], direction="a_to_b")
    torch.testing.assert_close(config.build()(a, b, IDS)[0], torch.stack(each).mean())


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        for x in made:
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return result


CUBES = {"pml-nt-xent", "pml-triplet-margin", "angular", "triplet-margin"}


@pytest.mark.parametrize("name", [*LOSSES, *MINERS])
def test_which_losses_and_miners_hold_a_cube_of_numbers(name):
    n = 48
    config = LOSSES[name][0] if name in LOSSES else Circle(miner=MINERS[name][0])
    with Largest() as largest:
        config.build()(*pairs(n, d=3))
    assert (largest.numbers > n**3 / 2) == (name in CUBES)
