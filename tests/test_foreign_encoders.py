"""Encoders of other packages are tried by whatever first relies on their features."""

from __future__ import annotations

import pytest
import torch

from contrastive import FeatureCache, build_model, load_model
from contrastive.encoders import CBOW, encoders
from contrastive.encoders.cbow import CBOWModule
from contrastive.errors import SpecError
from contrastive.evaluation.labelled_splits import Reader
from contrastive.interface import BadRows, RowList

TEXTS = ["a", "a dog", "two dogs on the grass"]
BROKEN = (
    r"^towers.text: centred: features of a sample change by .*; choose another encoder, or let it "
)


class CentredModule(CBOWModule):
    """Features relative to the mean of their batch."""

    calls = 0
    own = False

    def forward(self, **inputs):
        CentredModule.calls += 1
        features = super().forward(**inputs)
        return features if self.own else features - features.mean(0)


class Centred(CBOW):
    """Words to features that depend on the batch."""

    def build(self):
        return CentredModule(self)


@pytest.fixture
def model(tmp_path):
    """Return a saved model that is loaded."""
    encoders.register("centred")(Centred)
    text = {"type": "centred", "width": 8, "buckets": 64}
    towers = {"text": {"encoder": text, "head": {"type": "linear"}, "frozen": "encoder"}}
    towers["image"] = towers["text"] | {"encoder": {"type": "resnet", "width": 4}}
    spec = {"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}}
    build_model(spec).save(tmp_path / "saved")
    return load_model(tmp_path / "saved")


def probe_features(model, cache):
    rows = [{"text": t, "label": "ab"[i % 2], "id": i} for i, t in enumerate(TEXTS)]
    samples = RowList(rows, BadRows(), classes=("a", "b"))
    return Reader(model, "text", cache=cache).read(samples, samples)


def embedded(model, cache):
    return model.embed("text", TEXTS, cache=cache)


@pytest.mark.parametrize("encode", [embedded, probe_features])
@pytest.mark.parametrize("cached", [True, False])
def test_a_saved_models_encoder_is_tried_before_its_features_are_used(
    encode, cached, model, tmp_path
):
    with pytest.raises(SpecError, match=BROKEN):
        encode(model, FeatureCache(tmp_path / "features") if cached else None)


def test_it_is_tried_once_and_on_three_samples_as_soon_as_there_are(model, monkeypatch):
    monkeypatch.setattr(CentredModule, "own", True)
    monkeypatch.setattr(CentredModule, "calls", 0)
    calls = []
    for samples in (TEXTS[:1], TEXTS[1:2], TEXTS, [*TEXTS, "b"]):
        before = CentredModule.calls
        model.embed("text", samples)
        calls.append(CentredModule.calls - before)
    # a batch for each of three lengths; and together and each alone
    assert calls == [1 + 2, 1, 3 + 4, 3]
    monkeypatch.setattr(CentredModule, "own", False)
    assert torch.isfinite(model.embed("text", TEXTS)).all()
