"""Two ranks encode and measure together what one does alone, and tell it once."""

import json
import sys

import pytest
import torch
from torch import distributed as dist

from contrastive import RunSpec
from contrastive.datasets.built_split import build_split
from contrastive.distributed.ranks import Ranks
from contrastive.distributed.shared_work import work_shared_by
from contrastive.errors import DataError
from contrastive.evaluation.evaluate import evaluate
from contrastive.features import cache as features
from contrastive.features.cache import FeatureCache
from contrastive.reporting.run_log import read_log
from contrastive.training import recorder
from contrastive.training.train import train
from tests.toys import toy_dict, toy_spec


def not_on_rank_1(rank):
    """Let the first evaluation of rank 1 fail."""
    real, calls = recorder.evaluate, []

    def evaluate_or_fail(*args, **how):
        calls.append(1)
        if rank == 1 and len(calls) == 1:
            msg = "the disk of this machine is gone"
            raise DataError(msg)
        return real(*args, **how)

    recorder.evaluate = evaluate_or_fail


def in_rank(rank, size, spec, folder):
    """Train, and measure the model alone and together; leave what was said and found."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    not_on_rank_1(rank)
    real, encoded = features.run_encoder, []

    def run_encoder(module, batch, **how):
        encoded.extend(batch.indices)
        return real(module, batch, **how)

    features.run_encoder = run_encoder
    sys.stderr = (folder / f"{rank}.err").open("w")
    model = train(spec, folder / "two", cache=FeatureCache(folder / "cache-two"))
    count = len(encoded)
    held_out = build_split(RunSpec.model_validate(spec).data, "val")
    alone = evaluate(model, held_out).as_dict()
    with work_shared_by(Ranks(rank, size)):
        together = evaluate(model, held_out).as_dict()
    sys.stderr.close()
    found = {"encoded": count, "alone": alone, "together": together}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_encode_and_measure_as_one_and_tell_it_once(tmp_path, in_ranks, capsys):
    data = tmp_path / "data"
    spec = toy_dict(data)
    paths = sorted((data / "flickr30k-images").iterdir())
    for path in paths[:2]:  # of train
        path.write_bytes(path.name.encode())
    spec["data"]["max_bad"] = 0.1
    spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
    in_ranks(in_rank, 2, spec, tmp_path)
    told, silent = ((tmp_path / f"{rank}.err").read_text() for rank in range(2))
    assert silent == ""
    assert [told.count(f"{path.name}: ") for path in paths[:2]] == [1, 1], told
    assert told.count("not measured") == 1
    assert "epoch 1 is not measured: rank 1: the disk of this machine is gone" in told
    lines = read_log(tmp_path / "two" / "log.jsonl")
    assert [line["step"] for line in lines if "not_measured" in line] == [3]
    assert [line["step"] for line in lines if "evaluation" in line] == [6]

    cache = FeatureCache(tmp_path / "cache-one")
    model = train(toy_spec(data).model_validate(spec), tmp_path / "one", cache=cache)
    image = model.tower("image")
    one, two = (
        each.table(image.spec.encoder, image.encoder, paths, on_bad=lambda *_: None)
        for each in (cache, FeatureCache(tmp_path / "cache-two"))
    )
    assert one.good.tolist() == two.good.tolist()
    rows = one.good.nonzero()[0]
    assert torch.equal(one[rows], two[rows])
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert sum(each["encoded"] for each in found) == 38, "each image once"
    assert all(each["encoded"] >= 16 for each in found)
    for each in found:
        assert each["alone"] == each["together"] == found[0]["alone"]
