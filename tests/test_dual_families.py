"""Whatever of transformers embeds images and texts is a dual model, whole and by its parts."""

import pytest
import torch
import transformers as t

from contrastive import load_model
from contrastive.encoders import HFImage, HFText
from contrastive.encoders.hf_dual import embedding
from contrastive.errors import SpecError
from contrastive.pretrained import pretrained_spec
from tests import duals
from tests.duals import SEEN, TINY
from tests.miniature import Picture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]

TEXTS = [*duals.CAPTIONS[:6], "A  RED circle!!", "red " * 100]  # of unlike lengths, one cut off


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves a tiny model of a family once."""
    root = tmp_path_factory.mktemp("duals")

    def save(family):
        if family == "tipsv2" and not hasattr(t, "Tipsv2Model"):
            pytest.skip("this transformers has no TIPSv2")
        if not (root / family / "config.json").exists():
            torch.manual_seed(0)
            (duals.FAMILIES | duals.OTHERS)[family](root / family)
        return root / family

    return save


@pytest.fixture(scope="module")
def pictures():
    return [Picture(0).draw(), Picture(5).draw(), Picture(3).draw().resize((90, 50))]


ALIKE = {"owlv2": "owlvit", "clipseg": "clip"}  # the latter are tried by day


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(one, marks=[pytest.mark.nightly] if one in ALIKE else [])
        for one in duals.OTHERS
    ],
)
def test_any_model_with_features_of_images_and_texts_is_a_dual_model(
    family, saved, pictures, tmp_path
):
    """What passes no gradient on is unused: masks of pretraining, attention to images."""
    model = load_model(f"hf:{saved(family)}")
    theirs = t.AutoModel.from_pretrained(saved(family)).eval()
    processor = t.AutoProcessor.from_pretrained(saved(family))
    length = model.tower("text").encoder.preprocess.max_length
    padded = {"padding": "max_length", "truncation": True, "max_length": length}
    inputs = {
        "image": dict(processor.image_processor(pictures, return_tensors="pt")),
        "text": dict(processor.tokenizer(TEXTS, **padded, return_tensors="pt")),
    }
    if family == "blip":
        del inputs["text"]["token_type_ids"]
    for modality, samples in (("image", pictures), ("text", TEXTS)):
        with torch.no_grad():
            out = getattr(theirs, f"get_{modality}_features")(**inputs[modality])
        expected = torch.nn.functional.normalize(embedding(out, theirs, family))
        found = model.embed(modality, samples)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        alone = torch.cat([model.embed(modality, [sample]) for sample in samples])
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
        assert found.std(0).max() > 0.01, "all alike would agree with any reference"
        encoder = model.tower(modality).encoder.requires_grad_(True)
        encoder(**encoder.preprocess(samples)).square().sum().backward()
        idle = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
        assert all("mask_token" in name or "crossattention" in name for name in idle)
    model.save(tmp_path / "ours")
    assert torch.equal(
        load_model(tmp_path / "ours").embed("text", TEXTS), model.embed("text", TEXTS)
    )


def test_the_scale_is_the_inverse_of_a_temperature_of_the_files_or_of_the_config(saved):
    for family in ("align", "tipsv2"):
        assert 1 / pretrained_spec(f"hf:{saved(family)}").loss.temperature == pytest.approx(50)


def features(module, samples):
    with torch.no_grad():
        return module.eval()(**module.preprocess(samples))


PARTS = ["align", "altclip", "aimv2", "blip", "chinese_clip", "flava", "vision-text-dual-encoder"]


@pytest.mark.parametrize("family", PARTS)
def test_of_a_dual_model_the_part_for_the_modality_is_taken(family, saved, pictures):
    whole = t.AutoModel.from_pretrained(saved(family)).eval()
    image = getattr(whole, "vision_model", None) or whole.image_model
    module = HFImage(name=str(saved(family))).build()
    pixels = module.preprocess(pictures)["image"]
    with torch.no_grad():
        hidden = image(pixel_values=pixels).last_hidden_state
    expected = hidden.flatten(2).mean(2) if hidden.ndim == 4 else hidden.mean(1)
    torch.testing.assert_close(features(module, pictures), expected, atol=1e-5, rtol=0)
    pooling, place = ("last", -1) if family == "aimv2" else ("cls", 0)  # which is causal
    module = HFText(name=str(saved(family)), pooling=pooling).build()
    first = {name: tensor[:1] for name, tensor in module.preprocess([TEXTS[0]]).items()}
    if family == "aimv2":  # of one text, without padding, transformers itself looks ahead
        first = {name: torch.cat([first[name]] * 2) for name in first}
        whole.set_attn_implementation("eager")
    with torch.no_grad():
        expected = whole.text_model(**first).last_hidden_state[:1, place]
    torch.testing.assert_close(features(module, TEXTS[:1]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_the_text_part_of_a_siglip_is_left_to_the_encoder_that_pads(family, saved):
    with pytest.raises(SpecError, match=r"at their last place; use hf-dual-text$"):
        HFText(name=str(saved(family))).build()


DECODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
DECODER |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 60}
PLACES = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
LANGUAGE_MODELS = {
    "Gemma3": lambda: t.Gemma3Config(
        text_config=DECODER, vision_config=TINY | SEEN, mm_tokens_per_image=4
    ),
    "Llava": lambda: t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**TINY, **SEEN), text_config=t.LlamaConfig(**DECODER)
    ),
    "Qwen3VL": lambda: t.Qwen3VLConfig(
        text_config=DECODER | {"rope_parameters": PLACES},
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2}
        | {"out_hidden_size": 16, "deepstack_visual_indexes": [0]},
    ),
}


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_of_a_language_model_that_sees_the_language_model_is_taken(family, tmp_path):
    model = getattr(t, f"{family}ForConditionalGeneration")(LANGUAGE_MODELS[family]()).eval()
    model.save_pretrained(tmp_path)
    duals.bert_tokenizer(64).save_pretrained(tmp_path)
    module = HFText(name=str(tmp_path)).build()
    inputs = module.preprocess(TEXTS[:1])
    with torch.no_grad():
        hidden = model.model.language_model(input_ids=inputs["input_ids"]).last_hidden_state
    torch.testing.assert_close(features(module, TEXTS[:1]), hidden.mean(1), atol=1e-5, rtol=0)
