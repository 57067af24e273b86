"""What is wrong with an encoder's spec, weights or library is said in one line."""

import json
import sys
from pathlib import Path

import pytest
import transformers as t
from safetensors.torch import load_file, save_file

from contrastive.encoders import Encoder, HFImage, HFText, ResNet, SentenceTransformers, Timm, ViT
from contrastive.errors import MissingExtra, SpecError, WeightsError
from tests.tiny_encoders import TIMM

pytestmark = pytest.mark.usefixtures("one_seed", "offline")


def copy_without(source, target, *leave_out):
    target.mkdir()
    for file in source.iterdir():
        if file.name not in leave_out and file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    return str(target)


@pytest.mark.slow
def test_what_is_missing_or_damaged_is_said_in_one_line(models, tmp_path):
    bert, vit = models / "bert", models / "vit"
    no_weights = copy_without(bert, tmp_path / "a", "model.safetensors")
    no_tokenizer = copy_without(bert, tmp_path / "b", "tokenizer.json", "tokenizer_config.json")
    no_processor = copy_without(vit, tmp_path / "c", "preprocessor_config.json")
    no_config = copy_without(bert, tmp_path / "d", "config.json")
    garbage = copy_without(bert, tmp_path / "e")
    Path(garbage, "model.safetensors").write_bytes(b"garbage")
    partial_weights = copy_without(bert, tmp_path / "f", "model.safetensors")
    state = load_file(bert / "model.safetensors")
    state.pop("encoder.layer.1.output.dense.weight")
    save_file(state, Path(partial_weights, "model.safetensors"), metadata={"format": "pt"})
    unknown = copy_without(bert, tmp_path / "g", "config.json")
    Path(unknown, "config.json").write_text('{"model_type": "nonesuch"}')
    custom = copy_without(bert, tmp_path / "h", "config.json")
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    Path(custom, "config.json").write_text(json.dumps(code))
    where = tmp_path / "nonesuch.safetensors"
    cases = [
        (HFText(name="owner/name"), "owner/name .*neither in the Hugging Face cache.*hf download"),
        (HFImage(name="a", revision="v1"), "hf download a --revision v1"),
        (SentenceTransformers(name="mini"), "sentence-transformers/mini .*neither"),
        (
            Timm(name="resnet18.a1_in1k"),
            r"timm/resnet18\.a1_in1k \(model\.safetensors\) is neither",
        ),
        (Timm(name="hf-hub:owner/name@v1"), "hf download owner/name --revision v1"),
        (HFText(name="./nonesuch"), "no such folder: ./nonesuch"),
        (HFText(name="not a name"), "not a name"),
        (HFText(name=no_weights), "no file model.safetensors, and pickles .* hf download NAME"),
        (HFText(name=no_tokenizer), "no tokenizer"),
        (HFImage(name=no_processor), "has no preprocessor_config.json; save .*save_pretrained"),
        (HFText(name=no_config), "cannot load config.json"),
        (HFText(name=garbage), "cannot load the model from .*header"),
        (HFText(name=partial_weights), r"lack encoder\.layer\.1\.output\.dense\.weight \(1 in all"),
        (HFText(name=unknown), "nonesuch"),
        (HFText(name=custom), "cannot load config.json"),
        (SentenceTransformers(name=no_weights), "cannot load the model"),
        (Timm(name=f"local-dir:{no_weights}"), "has no model.safetensors"),
        (Timm(name=TIMM, weights=where), "nonesuch.safetensors: no such file"),
        (Timm(name=TIMM, weights=Path(unknown, "config.json")), "not a readable safetensors file"),
        (Timm(name="gcvit_base"), "no safetensors for it"),
    ]
    for spec, said in cases:
        with pytest.raises(WeightsError, match=said) as error:
            spec.build()
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500


@pytest.mark.slow
def test_what_does_not_fit_the_model_is_said_in_one_line(models):
    cases = [
        (Timm(name="resnet81", pretrained=False), "did you mean resnet18"),
        (Timm(name="resnet18.nonesuch"), "did you mean resnet18"),
        (Timm(name="url:owner/name"), "'url' is no source"),
        (HFText(name=f"{models}/distilbert", pooling="pooler"), "has no pooler; set pooling"),
        (HFImage(name=f"{models}/resnet", pooling="cls"), "no class token; set pooling to mean"),
        (HFText(name=f"{models}/bert", max_length=25), "25 is more than the 24 tokens"),
        (HFText(name=f"{models}/bert", max_length=2), "no room beside 2 special tokens"),
        (SentenceTransformers(name=f"{models}/sentences", max_length=25), "more than the 24"),
        (HFImage(name=f"{models}/bert"), "does not take what .* gives: .*; choose another model"),
        (HFText(name=f"{models}/vit"), "does not take what .* gives: .*; choose another model"),
    ]
    for spec, said in cases:
        with pytest.raises(SpecError, match=said) as error:
            spec.build()
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_model_that_needs_the_grid_of_its_patches_is_refused_for_that(tmp_path):
    """And not for images of several sizes, which no setting of its processor could help."""
    t.Glm4vVisionConfig(hidden_size=32, num_heads=4, depth=1).save_pretrained(tmp_path)
    t.Glm4vImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(SpecError) as error:
        HFImage(name=str(tmp_path), pretrained=False).build()
    assert str(error.value) == (
        f"hf-image {str(tmp_path)!r}: the model needs grid_thw, hidden_states, which its image "
        "processor does not give; choose another model"
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"type": "vit", "width": 10, "heads": 3}, "width 10 is not a multiple of heads 3"),
        ({"type": "vit", "image_size": 30}, "image_size 30 is not a multiple of patch_size 16"),
        ({"type": "text-transformer", "heads": 3}, "width 256 is not a multiple of heads 3"),
        ({"type": "text-transformer", "dropout": 1}, "less than 1"),
        ({"type": "timm", "name": "a", "pretrained": False, "weights": "b"}, "pretrained is false"),
        ({"type": "hf-image", "name": "a", "pooling": "last"}, "'mean', 'cls' or 'pooler'"),
        ({"type": "cbow", "widht": 3}, "did you mean 'width'"),
    ],
)
def test_impossible_specs_are_refused_before_anything_is_built(spec, said):
    with pytest.raises(ValueError, match=said):
        Encoder.choose(spec)


@pytest.mark.parametrize(
    ("library", "extra", "spec"),
    [
        ("timm", "timm", Timm(name="resnet18")),
        ("timm", "timm", ResNet()),
        ("timm", "timm", ViT()),
        ("transformers", "transformers", HFText(name="bert")),
        ("transformers", "transformers", HFImage(name="vit")),
        ("sentence_transformers", "sentence-transformers", SentenceTransformers(name="mini")),
    ],
)
def test_a_missing_library_is_named_with_its_extra(library, extra, spec, monkeypatch):
    for name in [library, *sys.modules]:  # it may not have been imported yet
        if name.partition(".")[0] == library:
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf'{library}.* pip install ".*\[{extra}\]"') as error:
        spec.build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [HFText, SentenceTransformers])
def test_a_prompt_has_no_place_for_the_text(kind):
    with pytest.raises(
        SpecError, match=r"prompt: a prompt stands before each text .* leave it out"
    ):
        kind(name="some/model", prompt="query: {}")
    assert kind(name="some/model", prompt="query: ").prompt == "query: "
