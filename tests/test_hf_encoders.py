"""Encoders of Hugging Face and sentence-transformers give what the libraries give."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from PIL import Image

from contrastive.encoders import HFImage, HFText, SentenceTransformers
from contrastive.encoders.weights import FILES
from contrastive.errors import SpecError, WeightsError
from contrastive.nn.fingerprint import weights_fingerprint
from tests import duals
from tests.tiny_encoders import (
    TEXTS,
    bert_tokenizer,
    features,
    gpt_tokenizer,
    samples_of,
    save_sentence_transformer,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]


def test_the_repr_of_a_tokenizer_changes_with_its_vocabulary_and_length_only(models, tmp_path):
    base = HFText(name=str(models / "bert"))
    module = base.build()
    before = repr(module.preprocess)
    features(module, TEXTS)
    assert repr(module.preprocess) == before
    module.preprocess.tokenizer.save_pretrained(tmp_path)  # with the state of its last call
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((models / "bert" / file).read_bytes())
    assert repr(HFText(name=str(tmp_path)).build().preprocess) == before
    tokenizer = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer.replace('"dogs"', '"hogs"'))
    assert repr(HFText(name=str(tmp_path)).build().preprocess) != before
    shorter = base.model_copy(update={"max_length": 5})
    assert repr(shorter.build().preprocess) != before


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "pooler"])
def test_text_pooling_is_that_of_the_model_itself(pooling, models):
    module = HFText(name=str(models / "bert"), pooling=pooling).build()
    model = transformers.BertModel.from_pretrained(models / "bert").eval()
    tokenizer = bert_tokenizer()
    for text, found in zip(TEXTS, features(module, TEXTS), strict=True):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"))
        states = out.last_hidden_state[0]
        expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}
        expected["pooler"] = out.pooler_output[0]
        torch.testing.assert_close(found, expected[pooling], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("special", [{}, {"bos_token": "<unk>"}])
def test_a_tokenizer_needs_neither_special_tokens_nor_a_limit(special, models, tmp_path):
    folder = shutil.copytree(models / "gpt2", tmp_path / "gpt2")
    backend = gpt_tokenizer().backend_tokenizer
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.model_max_length = float("inf")
    tokenizer.save_pretrained(folder)
    module = HFText(name=str(folder)).build()
    alone = torch.cat([features(module, [text]) for text in TEXTS])
    torch.testing.assert_close(features(module, TEXTS), alone)


@pytest.mark.parametrize("told", ["24", 0, -1, None])
def test_a_length_that_is_no_count_is_none(told, models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["model_max_length"] = told
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert HFText(name=str(folder)).build().preprocess.max_length == 24


@pytest.mark.parametrize(
    ("family", "longest"), [("Bert", 26), ("Roberta", 24), ("XLMRoberta", 24), ("MPNet", 24)]
)
@pytest.mark.parametrize("library", ["transformers", "sentence-transformers"])
def test_positions_that_are_for_no_token_are_not_counted(tmp_path, family, longest, library):
    tokenizer = bert_tokenizer()
    tokenizer.model_max_length = 10**30
    config = getattr(transformers, f"{family}Config")(
        **(duals.TINY | {"vocab_size": len(tokenizer), "max_position_embeddings": 26})
    )
    folder = tmp_path / "model"
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if library == "transformers":
        make = partial(HFText, name=str(folder))
    else:
        save_sentence_transformer(folder, tmp_path / "saved")
        make = partial(SentenceTransformers, name=str(tmp_path / "saved"))
    module = make().build()
    assert module.preprocess.max_length == longest
    (long,) = features(module, ["a dog " * 100])
    assert long.isfinite().all()
    assert make(max_length=longest).build().preprocess.max_length == longest
    with pytest.raises(SpecError, match=f"max_length {longest + 1} is more than the {longest}"):
        make(max_length=longest + 1).build()


@pytest.mark.parametrize("name", ["vit", "resnet", "clip"])
def test_image_pooling_is_that_of_the_model_itself(name, models):
    cls = {"vit": "ViTModel", "resnet": "ResNetModel", "clip": "CLIPVisionModel"}[name]
    model = getattr(transformers, cls).from_pretrained(models / name).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(models / name)
    samples = samples_of(HFImage)
    with torch.no_grad():
        out = model(processor(samples, return_tensors="pt")["pixel_values"])
    states = out.last_hidden_state
    mean = states.mean((2, 3)) if states.ndim == 4 else states.mean(1)
    for pooling, expected in [("mean", mean), ("pooler", out.pooler_output.flatten(1))]:
        module = HFImage(name=str(models / name), pooling=pooling).build()
        torch.testing.assert_close(features(module, samples), expected, atol=1e-5, rtol=1e-4)


def test_images_whose_sizes_differ_only_if_they_are_large_are_run_by_size(models, tmp_path):
    folder = shutil.copytree(models / "resnet", tmp_path / "resnet")
    transformers.Swin2SRImageProcessor(size_divisor=96).save_pretrained(folder)
    encoder = HFImage(name=str(folder)).build().eval()
    images = [Image.new("RGB", (side, 90), "teal") for side in (60, 90, 200)]
    together = features(encoder, images)
    alone = torch.cat([features(encoder, [image]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_sentence_embeddings_are_those_of_encode(models):
    from sentence_transformers import SentenceTransformer

    spec = SentenceTransformers(name=str(models / "sentences"))
    expected = SentenceTransformer(spec.name, device="cpu").encode(TEXTS, show_progress_bar=False)
    found = features(spec.build(), TEXTS)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    assert spec.build().preprocess.prompt == "the "  # its default prompt, as in encode


@pytest.mark.parametrize("which", ["bert-mlm", "sentences"])
def test_weights_that_a_checkpoint_lacks_are_never_drawn_at_random(which, models):
    """Masked language models have no pooler, which transformers would make up."""
    kind = SentenceTransformers if which == "sentences" else HFText
    spec = kind(name=str(models / which))
    assert weights_fingerprint(spec.build()) == weights_fingerprint(spec.build())
    if kind is HFText:
        with pytest.raises(WeightsError, match=r"lack pooler\.dense"):
            spec.model_copy(update={"pooling": "pooler"}).build()


def test_measuring_the_width_leaves_batch_statistics_and_the_generator_alone(models):
    spec = HFImage(name=f"{models}/resnet", pretrained=False)
    torch.manual_seed(3)
    module = spec.build()
    after = torch.get_rng_state()
    assert not any(b.any() for n, b in module.named_buffers() if "num_batches" in n)
    torch.manual_seed(3)
    transformers.AutoModel.from_config(module.model.config)
    assert torch.equal(after, torch.get_rng_state())


def test_half_precision_checkpoints_are_loaded_in_fp32(models, tmp_path):
    transformers.BertModel.from_pretrained(models / "bert").bfloat16().save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    module = HFText(name=str(tmp_path)).build()
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("asked", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(
    ("kind", "which", "file", "place"),
    [
        (HFText, "bert", "config.json", []),
        (HFText, "clip", "config.json", ["text_config"]),
        (SentenceTransformers, "sentences", "config.json", []),
        (SentenceTransformers, "sentences", "sentence_bert_config.json", ["config_args"]),
    ],
)
def test_a_folder_does_not_choose_the_code_of_attention(
    asked, kind, which, file, place, models, tmp_path
):
    """With the package ``kernels`` OWNER/NAME would be fetched from the Hub and run."""
    folder = shutil.copytree(models / which, tmp_path / which)
    config = json.loads((folder / file).read_text())
    part = config
    for name in place:
        part = part.setdefault(name, {})
    part[asked] = "evil/kernel"
    (folder / file).write_text(json.dumps(config))
    model = kind(name=str(folder)).build().model
    assert getattr(model, "transformers_model", model).config._attn_implementation == "sdpa"


def test_every_file_of_a_tokenizer_is_asked_for():
    """BERTweet's codes, Marian's pieces, ProphetNet's words, templates of chats."""
    folder = Path(transformers.__file__).parent / "models"
    tables = [
        table
        for file in folder.glob("*/tokenization_*.py")
        for table in re.findall(r"VOCAB_FILES_NAMES = {(.*?)}", file.read_text(), re.DOTALL)
    ]
    names = {name for table in tables for name in re.findall(r': "([^"]+)"', table)}
    assert {"bpe.codes", "source.spm", "vocab.txt"} <= names
    names |= {"chat_template.jinja", "additional_chat_templates/tool.jinja"}
    assert names == {*filter_repo_objects(names, allow_patterns=list(FILES))}
