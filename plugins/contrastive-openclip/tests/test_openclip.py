"""Models of open_clip are models of ours: embeddings, logits and tokens are the original's."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import safetensors
import torch
from contrastive_openclip import OpenCLIPImage, OpenCLIPText
from safetensors.torch import load_file, save_file

from contrastive import ModelSpec, Tower, build_model, load_model
from contrastive.interface import (
    MissingExtra,
    SpecError,
    WeightsError,
    dump_spec,
    encoders,
    load_spec,
    pretrained_spec,
)
from contrastive.testing import check_component

KINDS = ["softmax", "sigmoid"]
MODALITIES = {"image": OpenCLIPImage, "text": OpenCLIPText}
README = Path(__file__).parents[1] / "README.md"
every_kind = pytest.mark.parametrize("kind", KINDS)


def cached(folder, repository, hub):
    """Lay a model out as the cache of the Hub has it."""
    place = hub / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / "0123")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123")


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_spec_finds_the_halves_by_name_and_writes_that_name(modality):
    name = f"open-clip-{modality}"
    encoder = {"type": name, "name": "ViT-B-32", "pretrained": False}
    tower = Tower.model_validate({"encoder": encoder, "head": {"type": "identity"}})
    assert type(tower.encoder) is MODALITIES[modality]
    assert tower.encoder.modality == modality
    assert encoders.name_of(MODALITIES[modality]) == name
    assert encoders.package_of(MODALITIES[modality]) == ("contrastive-openclip", "0.1.0")
    assert Tower.model_validate(tower.model_dump(mode="json")) == tower


def test_the_spec_of_the_readme_is_one(tmp_path):
    text = re.search(r"^```yaml\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "clip.yaml").write_text(text)
    towers = load_spec(ModelSpec, tmp_path / "clip.yaml").towers
    assert {name: type(tower.encoder) for name, tower in towers.items()} == MODALITIES


@pytest.mark.slow
def test_the_menu_imports_no_framework():
    code = (
        "import sys, contrastive_openclip as p; p.OpenCLIP(name='ViT-B-32/openai');"
        "print({'torch', 'open_clip', 'transformers', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("half", MODALITIES.values())
def test_the_halves_keep_what_encoders_promise(half, originals):
    check_component(half(name=f"local-dir:{originals['softmax'][0]}"))


@every_kind
def test_embeddings_and_logits_are_those_of_open_clip(kind, originals, pictures, texts):
    folder, theirs, transform = originals[kind]
    ours = load_model(f"open_clip:{folder}")
    pixels = torch.stack([transform(picture) for picture in pictures])
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        images, sentences = theirs.encode_image(pixels, True), theirs.encode_text(tokens, True)
        logits, _ = theirs.get_logits(pixels, tokens)
    assert images.std(0).max() > 0.05, "all alike would agree with any reference"
    assert sentences.std(0).max() > 0.05
    torch.testing.assert_close(ours.embed("image", pictures), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.embed("text", texts), sentences, atol=1e-6, rtol=0)
    found = ours.similarity(ours.embed("image", pictures), ours.embed("text", texts))
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-6)
    assert ours.spec.loss.max_scale > 100


@every_kind
def test_inputs_are_those_of_open_clip(kind, originals, pictures, texts):
    folder, _, transform = originals[kind]
    name = f"local-dir:{folder}"
    found = OpenCLIPImage(name=name).build().preprocess(pictures)
    assert torch.equal(found["image"], torch.stack([transform(picture) for picture in pictures]))
    found = OpenCLIPText(name=name).build().preprocess(texts)
    assert torch.equal(found["tokens"], open_clip.get_tokenizer(name)(texts))


@every_kind
def test_scale_and_bias_are_the_original_s_and_stay_within_their_bounds(kind, originals):
    weights = load_file(originals[kind][0] / "open_clip_model.safetensors")
    loss = load_model(f"open_clip:{originals[kind][0]}").loss
    assert loss.log_scale.item() == weights["logit_scale"].item()
    assert ("logit_bias" in weights) is (loss.bias is not None)
    loss.clamp_()
    assert loss.log_scale.item() == pytest.approx(weights["logit_scale"].item(), abs=1e-6)


@every_kind
def test_a_saved_model_is_the_same_when_loaded_again(kind, originals, pictures, texts, tmp_path):
    model = load_model(f"open_clip:{originals[kind][0]}")
    halves = [
        {name for name, _ in tower.encoder.model.named_parameters()}
        for tower in model.towers.values()
    ]
    assert not halves[0] & halves[1]
    model.save(tmp_path / "ours")
    parts = json.loads((tmp_path / "ours" / "parts.json").read_text())
    assert parts["packages"]["contrastive-openclip"] == "0.1.0"
    again = load_model(tmp_path / "ours")
    assert torch.equal(again.embed("image", pictures), model.embed("image", pictures))
    assert torch.equal(again.embed("text", texts), model.embed("text", texts))


def test_the_spec_alone_is_the_model(originals, texts, tmp_path):
    model = load_model(f"open_clip:{originals['softmax'][0]}")
    (tmp_path / "clip.yaml").write_text(dump_spec(model.spec))
    again = build_model(tmp_path / "clip.yaml").eval()
    assert torch.equal(again.embed("text", texts), model.embed("text", texts))
    assert again.scale == model.scale


@pytest.mark.parametrize("modality", MODALITIES)
def test_gradients_reach_every_parameter_of_a_half(modality, originals, pictures, texts):
    module = MODALITIES[modality](name=f"local-dir:{originals['softmax'][0]}").build().eval()
    samples = {"image": pictures, "text": texts}[modality]
    module(**module.preprocess(samples)).square().sum().backward()
    assert [name for name, weight in module.named_parameters() if weight.grad is None] == []


def test_an_architecture_takes_a_local_file(originals, texts, tmp_path):
    folder, model, _ = originals["softmax"]
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    ours = load_model(f"open_clip:tiny-clip@{folder / 'open_clip_model.safetensors'}")
    tokens = open_clip.get_tokenizer("tiny-clip")(texts)
    with torch.no_grad():
        expected = model.encode_text(tokens, True)
    torch.testing.assert_close(ours.embed("text", texts), expected, atol=1e-6, rtol=0)
    other = tmp_path / "other.safetensors"
    save_file({"logit_scale": torch.tensor(3.0)}, other)
    with pytest.raises(WeightsError, match=r"lack ln_final.bias \(\d+ in all\)"):
        load_model(f"open_clip:tiny-clip@{other}")


def test_a_tag_brings_its_own_preprocessing(originals, tmp_path, monkeypatch, pictures):
    folder, model, transform = originals["softmax"]
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    plain = {name: value for name, value in config.items() if name != "quick_gelu"}
    (tmp_path / "tiny-tagged.json").write_text(json.dumps(plain))
    open_clip.add_model_config(tmp_path / "tiny-tagged.json")
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash", "quick_gelu": True}
    tags = {"mine": {"hf_hub": "owner/tiny/", **half}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-tagged", tags)
    cached(folder, "owner/tiny", tmp_path / "hub")
    ours = load_model("open_clip:tiny-tagged/mine")
    with torch.no_grad():
        expected = model.encode_image(torch.stack([transform(p) for p in pictures]), True)
    torch.testing.assert_close(ours.embed("image", pictures), expected, atol=1e-6, rtol=0)
    hub = load_model("open_clip:hf-hub:owner/tiny")
    assert torch.equal(hub.embed("image", pictures), ours.embed("image", pictures))


def test_a_missing_library_is_named_with_the_remedy(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "open_clip"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"open_clip.* run: pip install contrastive-openclip$"):
        load_model("open_clip:ViT-B-32/a")


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path, caplog):
    cases = {
        "ViT-B-32": (SpecError, "name its weights, too: ViT-B-32/TAG or ViT-B-32@FILE"),
        "ViT-B-32/laion2b_s34b_b79k": (
            WeightsError,
            r"open_clip_model.safetensors.*`hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ),
        "ViT-B-33/openai": (SpecError, "no architecture ViT-B-33; did you mean ViT-B-32"),
        "ViT-B-32/nonesuch": (SpecError, "no published weights nonesuch; it has: openai"),
        "ViT-B-32@model.pt": (WeightsError, r"model.pt: not safetensors.*save_model\(m"),
        "hf-hub:owner/clip": (WeightsError, "open_clip_config.json, open_clip_model.safetensors"),
        "url:owner/clip": (SpecError, "'url' is no source"),
        "./nonesuch": (WeightsError, "no such folder: .*nonesuch"),
        str(tmp_path): (WeightsError, "cannot load open_clip_config.json"),
    }
    for name, (kind, said) in cases.items():
        with pytest.raises(kind, match=said) as error:
            pretrained_spec(f"open_clip:{name}")
        assert "\n" not in str(error.value)
    assert not caplog.records


@pytest.mark.parametrize("form", ["file", "folder", "a pickle of another name"])
def test_a_pickle_is_converted_as_the_message_says(originals, tmp_path, monkeypatch, texts, form):
    monkeypatch.chdir(tmp_path)
    folder, model, _ = originals["softmax"]
    shutil.copytree(folder, "m")
    Path("m/open_clip_model.safetensors").unlink()
    config = json.loads(Path("m/open_clip_config.json").read_text())["model_cfg"]
    Path("tiny-pickled.json").write_text(json.dumps(config))
    open_clip.add_model_config("tiny-pickled.json")
    pickled = "m/mine.pt" if form == "a pickle of another name" else "m/open_clip_pytorch_model.bin"
    torch.save(model.state_dict(), pickled)
    name = f"tiny-pickled@{pickled}" if form == "file" else "./m"
    with pytest.raises(WeightsError) as error:
        load_model(f"open_clip:{name}")
    code = str(error.value).split("that you trust: ")[1].replace("FILE.pt", pickled)
    exec(code, {"safetensors": safetensors, "open_clip": open_clip})
    ours = load_model(f"open_clip:{name}".replace(".bin", ".safetensors"))
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("tiny-pickled")(texts), True)
    torch.testing.assert_close(ours.embed("text", texts), expected, atol=1e-6, rtol=0)


def test_a_tag_of_a_pickle_is_converted_as_the_message_says(originals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, model, _ = originals["softmax"]
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    Path("tiny-tag.json").write_text(json.dumps(config))
    open_clip.add_model_config("tiny-tag.json")
    torch.save(model.state_dict(), "there.pt")
    tags = {"mine": {"url": "https://example.org/there.pt", "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-tag", tags)
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *_, **__: "there.pt")
    with pytest.raises(WeightsError) as error:
        load_model("open_clip:tiny-tag/mine")
    code, name = re.fullmatch(
        r".*you trust: (.*), and give it as weights, of a whole model as (\S+)", str(error.value)
    ).groups()
    exec(code, {"safetensors": safetensors, "open_clip": open_clip})
    state = load_model(name).state_dict()
    assert any(torch.equal(model.token_embedding.weight, value) for value in state.values())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "ViT-B-32"}, "give its tag or weights, or pretrained: false"),
        ({"name": "ViT-B-32", "tag": "a", "weights": "b"}, "not both"),
        ({"name": "local-dir:clip", "tag": "a"}, "has its own weights"),
    ],
)
def test_an_impossible_source_is_refused_before_anything_is_built(fields, said):
    tower = {"encoder": {"type": "open-clip-text", **fields}, "head": {"type": "identity"}}
    with pytest.raises(ValueError, match=said):
        ModelSpec.model_validate({"towers": {"text": tower}, "loss": {"type": "infonce"}})


@pytest.fixture
def stranger(originals, tmp_path):
    """Return a function that writes a model with random weights, and files beside it."""

    def write(text_cfg, **files):
        whole = json.loads((originals["softmax"][0] / "open_clip_config.json").read_text())
        whole["model_cfg"]["text_cfg"] |= text_cfg
        for name, content in ({"open_clip_config": whole} | files).items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        (tmp_path / "evil.py").write_text("raise SystemExit('the code of a folder ran')")
        return OpenCLIPText(name=f"local-dir:{tmp_path}", pretrained=False)

    return write


@pytest.mark.parametrize(
    "options",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": "True", "clean": "lower"},
        {"code_revision": "main"},
        {"tokenizer_type": "evil"},
        {"bpe_path": "/etc/passwd"},
        ["trust_remote_code"],
    ],
)
def test_a_config_sets_no_options_that_choose_code(options, stranger):
    tokenizer = {"hf_tokenizer_name": "evil/clip", "tokenizer_kwargs": options}
    code = {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
    spec = stranger(tokenizer, tokenizer_config=code)
    with pytest.raises(WeightsError, match=r"tokenizer_kwargs set .* it may set clean"):
        spec.build()


def test_the_code_of_a_tokenizer_is_not_run(stranger):
    code = {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
    spec = stranger({"hf_tokenizer_name": "evil/clip"}, tokenizer_config=code)
    with pytest.raises(WeightsError, match="cannot load the tokenizer"):
        spec.build()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "x", "auto_map": {"AutoConfig": "evil.Config"}}, "contains custom code"),
        ({"model_type": "bert", "_attn_implementation": "evil/kernel"}, "attention by 'evil/kern"),
    ],
)
def test_the_code_of_a_text_model_is_not_run(config, why, stranger, tmp_path):
    spec = stranger({"hf_model_name": str(tmp_path), "hf_proj_type": "linear"}, config=config)
    with pytest.raises(WeightsError, match=why):
        spec.build()


@pytest.mark.parametrize(
    "config", [{}, [], {"model_cfg": []}, {"model_cfg": {"vision_cfg": {}, "text_cfg": []}}]
)
def test_a_config_of_another_shape_is_one_line(config, tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    spec = OpenCLIPText(name=f"local-dir:{tmp_path}", pretrained=False)
    with pytest.raises(WeightsError, match=r"open_clip_config\.json"):
        spec.build()
