"""What would train another model on several ranks than on one is refused before the first step."""

import json
from copy import deepcopy

import pytest
from torch import distributed as dist

from contrastive.errors import TrainingError
from contrastive.losses import Matryoshka
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.testing import generic
from contrastive.testing.components import examine_component
from contrastive.training.train import train
from tests.rank_parts import Ending, Gathering, Plain
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

PARTS = "tests.rank_parts"
ANOTHER = "is another loss on 2 ranks than on one"
NORM = "keeps no running statistics, so that it always needs the whole batch; use another norm"
HEADS = {"head": "NormHead", "forgetful": "ForgetfulNormHead", "routed": "RoutedHead"}
CASES = {
    "a plain loss": ({"loss": {"type": f"{PARTS}:Plain"}}, "none", {}, ANOTHER),
    "a loss that gathers nothing": (
        {"loss": {"type": f"{PARTS}:Gathering", "gathers": False}},
        "none",
        {},
        ANOTHER,
    ),
    "a loss within ours": (
        {"loss": {"type": "matryoshka", "widths": [16, 32], "loss": {"type": f"{PARTS}:Plain"}}},
        "none",
        {},
        ANOTHER,
    ),
    "a loss that gathers": ({"loss": {"type": f"{PARTS}:Gathering"}}, "none", {}, ""),
    "local negatives": (
        {"loss": {"type": f"{PARTS}:Gathering", "gathers": False, "negatives": "local"}},
        "none",
        {},
        "",
    ),
    "a norm without running statistics": ({}, "forgetful", {}, NORM),
    "a norm by choice": ({}, "head", {"batch_norm": "eval"}, ""),
    "weights that one rank uses": ({}, "routed", {}, ""),
}


def in_rank(rank, size, specs, folder):
    """Train each spec; leave what is said."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    told = {}
    for name, spec in specs.items():
        try:
            model = train(spec, folder / name)
            told[name] = ""
            told[f"{name}, weights"] = weights_fingerprint(model)
        except TrainingError as error:
            told[name] = str(error)
        except SystemExit:
            told[name] = "said by rank 0"
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(told))


@pytest.fixture(scope="module")
def told(tmp_path_factory, in_ranks):
    """Return what each case says on two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    toy, specs = toy_dict(folder / "data", images=16, epochs=1, batch_size=8), {}
    for name, (model, norm, training, _) in CASES.items():
        spec = specs[name] = deepcopy(toy)
        spec["model"] |= model
        spec["training"] |= training
        spec["evaluation"] = {"split": None}
        image = spec["model"]["towers"]["image"]
        if norm in HEADS:
            image["head"] = {"type": f"{PARTS}:{HEADS[norm]}"}
    in_ranks(in_rank, 2, specs, folder)
    return json.loads((folder / "0.json").read_text()), json.loads((folder / "1.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_what_ranks_would_make_another_is_refused_in_one_line(told, case):
    first, second = (said[case] for said in told)
    expected = CASES[case][-1]
    assert expected in first
    assert "\n" not in first
    assert bool(first) == bool(expected) == bool(second)


def test_weights_that_one_rank_alone_uses_stay_the_same_on_all(told):
    name = "weights that one rank uses, weights"
    assert told[0][name] == told[1][name]


@pytest.mark.parametrize(
    ("loss", "problem", "skipped"),
    [
        (Plain(), "on two ranks it is another loss than on one", ""),
        (Gathering(gathers=False), "let it gather the batch by contrastive.interface.gather_g", ""),
        (Gathering(gathers=False, negatives="local"), "", "its negatives are those of each rank"),
        (Gathering(), "", ""),
        (Matryoshka(widths=[16, 32], loss=Plain()), "is another loss than on one", ""),
        (Ending(), "it fails in another process: RuntimeError: not on two ranks", ""),
    ],
    ids=repr,
)
def test_check_component_tries_a_loss_in_two_ranks(loss, problem, skipped, monkeypatch):
    # without the one that imports this module, and so torch, in a new process
    others = [check for check in generic.GENERIC_CHECKS if check.name != "menu"]
    monkeypatch.setattr(generic, "GENERIC_CHECKS", others)
    (verdict,) = [each for each in examine_component(loss) if each.check == "processes"]
    assert problem in verdict.problem
    assert bool(problem) == bool(verdict.problem)
    assert skipped in verdict.skipped
    assert bool(skipped) == bool(verdict.skipped)
