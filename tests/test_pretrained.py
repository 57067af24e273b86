"""Pretrained CLIPs are models of ours: their embeddings, logits and opinions are the original's."""

import json
import math
import operator
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from contrastive import FeatureCache, ModelSpec, RunSpec, build_model, classify, load_model
from contrastive.config import yaml_files as files
from contrastive.encoders import HFDualImage, HFDualText
from contrastive.encoders.hf_dual import embedding
from contrastive.errors import (
    ContrastiveError,
    MissingExtra,
    SpecError,
    UnknownComponent,
    WeightsError,
)
from contrastive.evaluation.evaluate import evaluate
from contrastive.pretrained import is_pretrained, pretrained_spec, sources
from contrastive.pretrained.duals import read_scalars
from contrastive.training.train import train
from tests import duals
from tests.miniature import Picture, write_flickr30k

pytestmark = pytest.mark.slow

TEXTS = [*duals.CAPTIONS[:6], "A  RED circle!!", "red " * 100]  # of unlike lengths, one cut off
CLASSES = ["red circle", "blue square", "green cross"]
TEMPLATE = "a photo of a {}"
every_family = pytest.mark.parametrize("family", duals.FAMILIES)


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Let the Hugging Face cache be empty and the Hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves a tiny model of a family once."""
    root = tmp_path_factory.mktemp("duals")

    def save(family):
        if not (root / family / "config.json").exists():
            torch.manual_seed(0)
            duals.FAMILIES[family](root / family)
        return root / family

    return save


@pytest.fixture(scope="module")
def loaded(saved):
    """Return a function that loads each model once; for tests that do not change it."""
    models = {}

    def load(family):
        if family not in models:
            models[family] = load_model(f"hf:{saved(family)}")
        return models[family]

    return load


@pytest.fixture(scope="module")
def flickr30k(tmp_path_factory):
    return write_flickr30k(tmp_path_factory.mktemp("data") / "flickr30k", images=48)


@pytest.fixture(scope="module")
def pictures():
    return [
        *(Picture(index).draw() for index in range(0, 24, 5)),
        Picture(3).draw().resize((90, 50)),
    ]


def original(folder, pictures, texts):
    """Return what transformers makes of its own model and processor."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    config = model.config.text_config
    length = min(config.max_position_embeddings, processor.tokenizer.model_max_length)
    inputs = processor(
        text=texts,
        images=pictures,
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    with torch.no_grad():
        return model(**inputs)


@every_family
def test_embeddings_and_logits_are_the_originals(family, saved, loaded, pictures):
    theirs, ours = original(saved(family), pictures, TEXTS), loaded(family)
    images, texts = ours.embed("image", pictures), ours.embed("text", TEXTS)
    torch.testing.assert_close(images, theirs.image_embeds, atol=1e-6, rtol=0)
    torch.testing.assert_close(texts, theirs.text_embeds, atol=1e-6, rtol=0)
    logits = ours.similarity(images, texts)
    torch.testing.assert_close(logits, theirs.logits_per_image, atol=1e-5, rtol=1e-6)
    assert images.std(0).max() > 0.01, "all alike would agree with any reference"
    assert texts.std(0).max() > 0.01


@every_family
def test_neither_the_batch_nor_its_padding_changes_a_sample(family, loaded, pictures):
    model = loaded(family)
    for modality, samples in (("image", pictures), ("text", TEXTS)):
        alone = torch.cat([model.embed(modality, [sample]) for sample in samples])
        together = model.embed(modality, samples)
        torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)


@every_family
def test_the_halves_share_out_the_originals_weights(family, saved, loaded):
    whole = transformers.AutoModel.from_pretrained(saved(family)).state_dict().keys()
    halves = [tower.encoder.model.state_dict().keys() for tower in loaded(family).towers.values()]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == whole - {"logit_scale", "logit_bias"}


@every_family
def test_scale_and_bias_are_the_originals_and_stay_within_their_bounds(family, saved, loaded):
    weights = load_file(saved(family) / "model.safetensors")
    loss = loaded(family).loss
    assert loss.log_scale.item() == weights["logit_scale"].item()
    assert type(loss.config).__name__ == ("Sigmoid" if "logit_bias" in weights else "InfoNCE")
    if loss.bias is not None:
        assert loss.bias.item() == weights["logit_bias"].item()
    loss.clamp_()
    assert loss.log_scale.item() == pytest.approx(weights["logit_scale"].item(), abs=1e-6)


def test_a_scale_below_the_bound_leaves_the_bound_where_it_is(saved, tmp_path):
    loss = pretrained_spec(f"hf:{with_weights(saved, tmp_path, logit_scale=4.0)}").loss
    assert loss.max_scale == 100
    assert loss.temperature == pytest.approx(math.exp(-4))


def with_weights(saved, tmp_path, **scalars):
    """Copy the CLIP with other scalars; None takes one out."""
    folder = shutil.copytree(saved("clip"), tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    for name, value in scalars.items():
        weights.pop(name)
        if value is not None:
            weights[name] = torch.tensor(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_nothing_is_told_of_texts_that_are_padded_alike_anyway(family, saved, capsys):
    load_model(f"hf:{saved(family)}")
    assert "padded" not in capsys.readouterr().err


def test_siglip_pads_every_text_and_reads_it_in_lower_case(loaded):
    model = loaded("siglip")
    inputs = model.tower("text").encoder.preprocess(["a red circle"])
    assert inputs["input_ids"].shape == (1, 64)
    alike = model.embed("text", ["a red circle", "A RED, circle!"])
    assert torch.equal(*alike)


def cached(folder, repository, hub):
    """Lay a model out as the cache of the Hub has it."""
    place = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / "0123")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123")


def test_a_name_is_a_folder_or_a_repository_with_a_revision(saved, loaded, monkeypatch, tmp_path):
    monkeypatch.chdir(saved("clip").parent)
    folder = pretrained_spec("hf:./clip").towers["image"].encoder
    assert folder == HFDualImage(name=str(saved("clip"))), "found from anywhere"
    with pytest.raises(WeightsError, match=r"`hf download owner/clip --revision v2`"):
        load_model("hf:owner/clip@v2")
    cached(saved("clip"), "owner/clip", tmp_path / "hub")
    for name in ("owner/clip", "owner/clip@main"):
        found = load_model(f"hf:{name}").embed("text", TEXTS)
        assert torch.equal(found, loaded("clip").embed("text", TEXTS))


def test_a_checkpoint_may_be_in_several_files_and_in_half_precision(saved, loaded, tmp_path):
    folder = shutil.copytree(saved("clip"), tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    whole = transformers.AutoModel.from_pretrained(saved("clip"))
    whole.half().save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    model = load_model(f"hf:{folder}")
    assert model.scale == pytest.approx(100, abs=0.2)
    found, expected = (each.embed("text", TEXTS) for each in (model, loaded("clip")))
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_saved_model_is_the_same_when_loaded_again(family, saved, loaded, pictures, tmp_path):
    model = loaded(family)
    model.save(tmp_path / "ours")
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    assert all(name.startswith("loss.") for name in weights), "the rest comes back by its name"
    again = load_model(tmp_path / "ours")
    assert torch.equal(again.embed("image", pictures), model.embed("image", pictures))
    assert torch.equal(again.embed("text", TEXTS), model.embed("text", TEXTS))
    assert again.scale == model.scale


def test_a_saved_model_whose_checkpoint_has_changed_is_refused(saved, tmp_path):
    folder = shutil.copytree(saved("clip"), tmp_path / "clip")
    load_model(f"hf:{folder}").save(tmp_path / "ours")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="image encoder's weights are not those"):
        load_model(tmp_path / "ours")


@every_family
def test_the_spec_alone_is_the_model(family, loaded, tmp_path):
    model = loaded(family)
    (tmp_path / "clip.yaml").write_text(files.dump_spec(model.spec))
    assert files.load_spec(ModelSpec, tmp_path / "clip.yaml") == model.spec
    again = build_model(tmp_path / "clip.yaml").eval()
    assert torch.equal(again.embed("text", TEXTS), model.embed("text", TEXTS))
    assert again.scale == model.scale


def test_features_are_cached(loaded, pictures, tmp_path, monkeypatch):
    model, cache = loaded("clip"), FeatureCache(tmp_path)
    first = model.embed("image", pictures, cache=cache)
    monkeypatch.setattr(model.tower("image").encoder, "forward", None)
    assert torch.equal(model.embed("image", pictures, cache=cache), first)


def test_preprocessing_gives_the_same_in_a_worker_process(loaded, pictures, forkserver):
    towers = [loaded(family).towers for family in ("clip", "siglip", "siglip2")]
    jobs = [partial(each["image"].encoder.preprocess, pictures) for each in towers]
    jobs += [partial(each["text"].encoder.preprocess, TEXTS) for each in towers]
    loader = DataLoader(
        jobs,
        batch_size=None,
        collate_fn=operator.call,
        num_workers=1,
        multiprocessing_context=forkserver,  # pickles
    )
    for job, inputs in zip(jobs, loader, strict=True):
        expected = job()
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in inputs)
        assert " at 0x" not in repr(job.func)


@every_family
def test_gradients_reach_every_parameter(family, saved, pictures):
    folder = str(saved(family))
    for spec, samples in ((HFDualImage(name=folder), pictures), (HFDualText(name=folder), TEXTS)):
        module = spec.build().eval()
        module(**module.preprocess(samples)).square().sum().backward()
        assert not [name for name, p in module.named_parameters() if p.grad is None]


def run_of(folder, data, image, text, embed_dim=8):
    """Return a short run that trains from a checkpoint's halves."""
    name = str(folder)
    return RunSpec.model_validate(
        {
            "model": {
                "embed_dim": embed_dim,
                "towers": {
                    "image": {"encoder": {"type": "hf-dual-image", "name": name}, **image},
                    "text": {"encoder": {"type": "hf-dual-text", "name": name}, **text},
                },
                "loss": {"type": "infonce", "temperature": 0.01},
            },
            "data": {"type": "flickr30k", "folder": str(data)},
            "training": {"epochs": 1, "batch_size": 16, "lr": 1e-3, "workers": 0},
            "evaluation": {"split": None},
        }
    )


def test_a_checkpoint_is_fine_tuned(saved, loaded, flickr30k, pictures, tmp_path):
    head = {"head": {"type": "identity"}}
    train(run_of(saved("clip"), flickr30k, head, head), tmp_path / "run")
    tuned, before = load_model(tmp_path / "run"), loaded("clip")
    assert (tuned.embed("image", pictures) - before.embed("image", pictures)).abs().max() > 1e-4
    saved_weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert "towers.image.encoder.model.visual_projection.weight" in saved_weights


def test_a_new_head_is_trained_on_a_frozen_checkpoint(saved, loaded, flickr30k, tmp_path):
    tower = {"head": {"type": "linear"}, "frozen": "encoder"}
    train(run_of(saved("clip"), flickr30k, tower, tower, embed_dim=6), tmp_path / "run")
    tuned = load_model(tmp_path / "run")
    assert tuned.embed("text", TEXTS).shape == (len(TEXTS), 6)
    ours = loaded("clip").tower("text").encoder.state_dict()
    theirs = tuned.tower("text").encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_zero_shot_classes_are_those_of_the_original(saved, loaded, pictures):
    sentences = [TEMPLATE.replace("{}", name) for name in CLASSES]
    expected = original(saved("clip"), pictures, sentences).logits_per_image.softmax(-1)
    found = classify(loaded("clip"), pictures, CLASSES, templates=[TEMPLATE])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 0.01


def test_retrieval_is_measured(loaded, flickr30k):
    data = {"type": "flickr30k", "folder": str(flickr30k)}
    split = RunSpec.model_validate({"model": loaded("clip").spec, "data": data}).data.build("test")
    report = evaluate(loaded("clip"), split, split="test")
    assert "retrieval" in json.dumps(report.as_dict())


def test_the_commands_take_a_pretrained_name(saved, flickr30k, command, tmp_path, loaded):
    model = f"hf:{saved('clip')}"
    path = tmp_path / "red.png"
    Picture(0).draw().save(path)
    done = command("classify", path, "--classes", "red,blue", "--model", model, "--json")
    assert done.code == 0, done.err
    shown = json.loads(done.out)[0]["probabilities"]
    assert list(shown.values()) == pytest.approx(
        classify(loaded("clip"), path, ["red", "blue"])[0].tolist(), abs=1e-5
    )
    done = command("search", "red", "--images", flickr30k, "--model", model, "-k", "2", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == 2
    run = run_of(saved("clip"), flickr30k, *[{"head": {"type": "identity"}}] * 2)
    (tmp_path / "run.yaml").write_text(files.dump_spec(run))
    done = command("evaluate", "--model", model, "--data", tmp_path / "run.yaml", "--json")
    assert done.code == 0, done.err
    done = command("evaluate", "--model", model)
    assert done.code == 2
    assert "without data; give --data" in done.err


def test_what_cannot_be_loaded_is_said_in_one_line(saved, tmp_path):
    lame = shutil.copytree(saved("clip"), tmp_path / "pickled")
    (lame / "model.safetensors").rename(lame / "pytorch_model.bin")
    cut = shutil.copytree(saved("clip"), tmp_path / "cut")
    (cut / "model.safetensors").write_bytes(b"not weights")
    single = tmp_path / "bert"
    transformers.BertConfig().save_pretrained(single)
    shy = with_weights(saved, tmp_path, logit_scale=-1.0)
    part = shutil.copytree(saved("clip"), tmp_path / "part")
    weights = load_file(part / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    sound = tmp_path / "clap"
    transformers.ClapConfig().save_pretrained(sound)
    cases = {
        str(sound): r"'clap' .* not a dual model .*; hf-image and hf-text .* parts of others$",
        "owner/clip": r"\(config.json, model.safetensors\) is neither .*`hf download owner/clip`",
        "./nonesuch": "no such folder: .*nonesuch",
        str(tmp_path): "has no config.json, so it is no dual model of transformers",
        str(lame): r"no file model.safetensors, and pickles .* never loaded; .*save_pretrained",
        str(cut): "not a readable safetensors file",
        str(single): "'bert' of transformers is not a dual model .*; hf-image",
        str(shy): "logit scale, 0.367879, is below 1",
        str(part): r"lack text_projection.weight \(1 in all\)",
    }
    for name, said in cases.items():
        with pytest.raises(ContrastiveError, match=said) as error:
            load_model(f"hf:{name}")
        assert "\n" not in str(error.value)


def test_a_name_without_a_source_is_refused():
    with pytest.raises(SpecError, match=r"begins with hf.* and a colon"):
        pretrained_spec("owner/clip")


def test_a_checkpoint_without_a_scale_is_refused(saved, tmp_path):
    folder = with_weights(saved, tmp_path, logit_scale=None)
    with pytest.raises(WeightsError, match="no logit_scale"):
        load_model(f"hf:{folder}")


@pytest.mark.parametrize("scale", [1e4, float("nan"), [1.0, 2.0]])
def test_a_scale_that_is_not_a_number_of_a_trained_model_is_refused(tmp_path, scale):
    save_file({"logit_scale": torch.tensor(scale)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"clip: .*: logit_scale is not a number of a trained"):
        read_scalars([tmp_path / "model.safetensors"], "clip")


def test_features_are_found_in_tensors_and_in_outputs():
    rows, clip = torch.ones(2, 3), transformers.CLIPModel
    output = transformers.modeling_outputs.BaseModelOutputWithPooling(pooler_output=rows)
    assert embedding(rows, clip, "clip") is embedding(output, clip, "clip") is rows


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r'transformers.* pip install ".*\[transformers\]"'):
        load_model("hf:owner/clip")


NAMES = {
    "hf:owner/clip": True,
    "hf:./clip": True,
    "open_clip:ViT-B-32/openai": True,
    "some-source:anything at all": True,
    "clip": False,
    "runs/clip": False,
    "/runs/a:b/clip": False,
    "./hf:owner": False,
    "C:/runs/clip": False,
    "C:\\runs\\clip": False,
    "hf:": False,
    ":clip": False,
    "": False,
}


@pytest.mark.parametrize(("name", "is_one"), NAMES.items())
def test_a_pretrained_name_is_a_source_and_what_it_calls_the_model(name, is_one):
    assert is_pretrained(name) is is_one


def test_a_folder_with_a_colon_is_a_folder(loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded("clip").save("runs:clip")
    assert not is_pretrained("runs:clip")
    assert load_model("runs:clip").spec == loaded("clip").spec


def test_looking_at_a_name_reads_no_package_and_imports_nothing():
    code = (
        "import sys, importlib.metadata as m, contrastive.pretrained as p;"
        "m.entry_points = None;"
        "print(p.is_pretrained('hf:a/b'), p.is_pretrained('x_y:a'), 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "False"]


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "runs:clip": "unknown pretrained source 'runs'; there are: hf",
        "hff:owner/clip": "unknown pretrained source 'hff'; did you mean 'hf'?",
        "open_clip:ViT-B-32/openai": "unknown pretrained source 'open_clip'; there are: hf; the "
        "plugin contrastive-openclip offers it: pip install contrastive-openclip",
    }.items(),
)
def test_a_source_that_nobody_offers_is_said_in_one_line(name, said, command, monkeypatch):
    monkeypatch.setitem(vars(sources), "installed", {})  # as without any plugin
    with pytest.raises(UnknownComponent) as error:
        load_model(name)
    assert str(error.value) == f"{name}: {said}"
    ended = command("classify", "red.png", "--classes", "red,blue", "--model", name)
    assert (ended.code, ended.err) == (2, f"{name}: {said}\n")


def test_a_package_adds_a_source(saved, loaded, installed):
    installed("good")
    model = load_model(f"good-zoo:{saved('clip')}")
    assert model.spec == loaded("clip").spec
    from contrastive_good.zoo import Zoo

    assert sources.name_of(Zoo) == "good-zoo"
