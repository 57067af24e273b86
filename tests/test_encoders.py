"""Every built-in encoder keeps the contract: raw samples in, ``[B, F]`` out, whatever the batch."""

import json
import operator
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.encoders import (
    CBOW,
    Encoder,
    HFImage,
    HFText,
    ResNet,
    SentenceTransformers,
    TextTransformer,
    Timm,
    ViT,
    encoders,
)
from contrastive.encoders.pooling import first_token, last_token, masked_mean
from contrastive.errors import BadSample, MissingExtra, SpecError, WeightsError
from contrastive.nn.fingerprint import weights_fingerprint

TEXTS = ["a dog", "two dogs run over the green grass", "cat", "the cat sat on a mat with a dog"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
SIDE = 32
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 24}
TIMM = "test_resnet.r160_in1k"


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Let the Hugging Face cache be empty and the Hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def bert_tokenizer(**options):
    """Return words to ids, between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    ids = {word: i for i, word in enumerate([*special, *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        **options,
    )


def gpt_tokenizer():
    """Return words to ids with nothing around them, without padding, and padded on the left."""
    ids = {word: i for i, word in enumerate(["<end>", "<unk>", *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", unk_token="<unk>", padding_side="left"
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return folders of tiny models of the real classes, with random weights."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    t = transformers
    vocabulary = {"vocab_size": 32, "max_position_embeddings": 24}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    seen = {"image_size": SIDE, "patch_size": 16}
    processor = t.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    clip = t.CLIPConfig(
        text_config=TINY | vocabulary | ends, vision_config=TINY | seen, projection_dim=8
    )
    built = {
        "bert": t.BertModel(t.BertConfig(**TINY, **vocabulary)),
        "bert-mlm": t.BertForMaskedLM(t.BertConfig(**TINY, **vocabulary)),
        "distilbert": t.DistilBertModel(
            t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=32)
        ),
        "gpt2": t.GPT2Model(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32)),
        "t5": t.T5Model(
            t.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, vocab_size=32)
        ),
        "vit": t.ViTModel(t.ViTConfig(**TINY, **seen)),
        "resnet": t.ResNetModel(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
        ),
        "clip": t.CLIPModel(clip),
    }
    for name, model in built.items():
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
        tokenizer = gpt_tokenizer() if name == "gpt2" else bert_tokenizer()
        tokenizer.save_pretrained(root / name)
    tiny = timm.create_model("test_vit", num_classes=5)
    timm.models.save_for_hf(tiny, root / "timm", safe_serialization=True)
    save_sentence_transformer(root / "bert-mlm", root / "sentences")
    return root


def save_sentence_transformer(source, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    body = Transformer(str(source))
    parts = [body, Pooling(16, "mean"), Normalize()]
    model = SentenceTransformer(
        modules=parts, device="cpu", prompts={"cap": "the "}, default_prompt_name="cap"
    )
    model.save_pretrained(str(folder), create_model_card=False)


SPECS = {
    "timm": lambda at: Timm(name="test_vit", pretrained=False),
    "timm, pretrained": lambda at: Timm(name=f"local-dir:{at}/timm"),
    "hf-image, ViT, mean": lambda at: HFImage(name=f"{at}/vit"),
    "hf-image, ViT, cls": lambda at: HFImage(name=f"{at}/vit", pooling="cls"),
    "hf-image, ViT, pooler": lambda at: HFImage(name=f"{at}/vit", pooling="pooler"),
    "hf-image, random": lambda at: HFImage(name=f"{at}/vit", pretrained=False),
    "hf-image, ResNet, mean": lambda at: HFImage(name=f"{at}/resnet"),
    "hf-image, ResNet, pooler": lambda at: HFImage(name=f"{at}/resnet", pooling="pooler"),
    "hf-image, CLIP, pooler": lambda at: HFImage(name=f"{at}/clip", pooling="pooler"),
    "hf-text, BERT, mean": lambda at: HFText(name=f"{at}/bert"),
    "hf-text, BERT, cls": lambda at: HFText(name=f"{at}/bert", pooling="cls"),
    "hf-text, BERT, pooler": lambda at: HFText(name=f"{at}/bert", pooling="pooler"),
    "hf-text, BERT, last": lambda at: HFText(name=f"{at}/bert", pooling="last"),
    "hf-text, random": lambda at: HFText(name=f"{at}/bert", pretrained=False),
    "hf-text, DistilBERT": lambda at: HFText(name=f"{at}/distilbert"),
    "hf-text, GPT-2, last": lambda at: HFText(name=f"{at}/gpt2", pooling="last"),
    "hf-text, T5's encoder": lambda at: HFText(name=f"{at}/t5"),
    "hf-text, CLIP, pooler": lambda at: HFText(name=f"{at}/clip", pooling="pooler"),
    "sentence-transformers": lambda at: SentenceTransformers(name=f"{at}/sentences"),
    "resnet": lambda at: ResNet(layers=(1, 1, 1, 1), width=8, image_size=SIDE),
    "resnet, bottleneck": lambda at: ResNet(
        block="bottleneck", layers=(1, 1, 1, 1), width=4, image_size=SIDE
    ),
    "vit": lambda at: ViT(image_size=SIDE, patch_size=8, width=16, depth=2, heads=2),
    "text-transformer": lambda at: TextTransformer(width=16, depth=2, heads=2, max_length=40),
    "cbow": lambda at: CBOW(width=8, buckets=100),
}
KINDS_OF_PREPROCESSING = [
    "timm",
    "hf-image, ViT, mean",
    "hf-text, BERT, mean",
    "vit",
    "text-transformer",
    "cbow",
]
every_encoder = pytest.mark.parametrize("which", SPECS)


@pytest.fixture(scope="session")
def built(models):
    """Return a function that builds each encoder once; for tests that do not change it."""
    modules = {}

    def build(which):
        if which not in modules:
            modules[which] = SPECS[which](models).build()
        return modules[which]

    return build


def samples_of(module):
    if module.modality == "text":
        return TEXTS
    noise = torch.Generator().manual_seed(1)
    sizes = [(40, 60), (90, 50), (32, 32), (200, 33)]
    return [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=noise).byte().numpy())
        for h, w in sizes
    ]


def features(module, samples):
    with torch.no_grad():
        return module.eval()(**module.preprocess(samples))


@every_encoder
def test_features_have_one_row_a_sample_and_the_width_it_says(which, built):
    module = built(which)
    out = features(module, samples_of(module))
    assert out.shape == (4, module.out_dim)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.std(0).max() > 0  # different samples, different features


@every_encoder
def test_the_order_of_a_batch_does_not_matter(which, built):
    module = built(which)
    samples = samples_of(module)
    backwards = features(module, samples[::-1]).flip(0)
    torch.testing.assert_close(backwards, features(module, samples), atol=1e-5, rtol=1e-4)


@every_encoder
def test_neither_the_batch_nor_its_padding_changes_a_sample(which, built):
    module = built(which)
    samples = samples_of(module)
    alone = torch.cat([features(module, [sample]) for sample in samples])
    torch.testing.assert_close(alone, features(module, samples), atol=1e-5, rtol=1e-4)


@every_encoder
def test_eval_mode_is_deterministic_and_draws_nothing(which, built):
    module = built(which)
    before = torch.get_rng_state()
    first, second = (features(module, samples_of(module)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@every_encoder
def test_gradients_reach_every_parameter(which, built):
    module = built(which).eval()
    module.zero_grad()
    module(**module.preprocess(samples_of(module))).square().sum().backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None]
    module.zero_grad()


@every_encoder
def test_training_mode_works_under_autocast(which, built):
    module = built(which).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(**module.preprocess(samples_of(module)))
    assert out.shape == (4, module.out_dim)
    assert out.isfinite().all()


class Holder(Config):
    encoder: Encoder
    """Any."""


@every_encoder
def test_a_spec_survives_yaml_and_json(which, models, tmp_path):
    holder = Holder(encoder=SPECS[which](models))
    (tmp_path / "spec.yaml").write_text(files.dump(holder))
    assert files.load(Holder, tmp_path / "spec.yaml") == holder
    assert Holder.model_validate_json(holder.model_dump_json()) == holder


def test_preprocessing_gives_the_same_in_a_worker_process(built):
    modules = [built(which) for which in KINDS_OF_PREPROCESSING]
    jobs = [partial(module.preprocess, samples_of(module)) for module in modules]
    loader = DataLoader(
        jobs,
        batch_size=None,
        collate_fn=operator.call,
        num_workers=1,
        multiprocessing_context="spawn",  # pickles
    )
    for module, inputs in zip(modules, loader, strict=True):
        expected = module.preprocess(samples_of(module))
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in inputs)


def test_the_repr_of_preprocessing_is_the_same_in_another_process(models, built):
    code = """
import sys, json
from contrastive.encoders import Encoder
for spec in json.load(sys.stdin):
    print(json.dumps(repr(Encoder.choose(spec).build().preprocess)))
"""
    specs = [SPECS[which](models).model_dump(mode="json") for which in KINDS_OF_PREPROCESSING]
    run = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(specs),
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(map(json.loads, run.stdout.splitlines())) == [
        repr(built(which).preprocess) for which in KINDS_OF_PREPROCESSING
    ]


def test_the_repr_of_a_transform_names_every_number():
    said = repr(Timm(name="test_resnet", pretrained=False).build().preprocess)
    assert all(part in said for part in ("160", "0.95", "bilinear", "center", "(0.5, 0.5, 0.5)"))
    said = repr(ViT(image_size=48, width=16, depth=1, heads=1).build().preprocess)
    assert all(part in said for part in ("48", "bicubic", "CenterCrop", "(0.5, 0.5, 0.5)"))


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


@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_agrees_with_a_loop_over_the_tokens(side):
    lengths, longest = [1, 4, 3, 6], 6
    hidden, mask = torch.randn(4, longest, 5), torch.zeros(4, longest, dtype=torch.long)
    expected = {"mean": [], "first": [], "last": []}
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else longest - length
        tokens = [hidden[row, start + i] for i in range(length)]
        mask[row, start : start + length] = 1
        expected["mean"].append(sum(token.double() for token in tokens).div(length).float())
        expected["first"].append(tokens[0])
        expected["last"].append(tokens[-1])
    hidden[mask == 0] = float("nan")
    torch.testing.assert_close(masked_mean(hidden, mask), torch.stack(expected["mean"]))
    assert torch.equal(first_token(hidden, mask), torch.stack(expected["first"]))
    assert torch.equal(last_token(hidden, mask), torch.stack(expected["last"]))


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


def test_sentence_embeddings_are_those_of_encode(models):
    from sentence_transformers import SentenceTransformer

    spec = SentenceTransformers(name=str(models / "sentences"))
    expected = SentenceTransformer(spec.name, device="cpu").encode(TEXTS, show_progress_bar=False)
    found = features(spec.build(), TEXTS)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    assert spec.build().preprocess.prompt == "the "  # its default prompt, as in encode


def test_timm_uses_the_transform_of_the_model(models):
    module = Timm(name=f"local-dir:{models}/timm").build()
    config = timm.data.resolve_model_data_config(module.net)
    transform = timm.data.create_transform(**config, is_training=False)
    samples = samples_of(module)
    expected = torch.stack([transform(sample) for sample in samples])
    assert torch.equal(module.preprocess(samples)["image"], expected)


def test_timm_takes_the_safetensors_of_a_folder_whatever_lies_beside_them(models, tmp_path):
    folder = Path(shutil.copytree(models / "timm", tmp_path / "timm"))
    (folder / "pytorch_model.bin").write_bytes(b"not to be unpickled")
    found = Timm(name=f"local-dir:{folder}").build().state_dict()
    expected = load_file(folder / "model.safetensors")
    for name in ("net.cls_token", "net.norm.weight"):
        assert torch.equal(found[name], expected[name.removeprefix("net.")])


@pytest.mark.parametrize("name", ["test_vit", "test_mambaout", "mobilenetv3_small_050"])
def test_the_width_that_timm_says_is_the_width_that_comes_out(name):
    module = Timm(name=name, pretrained=False).build()
    assert features(module, samples_of(module)[:1]).shape == (1, module.out_dim)


def cached_on_hub(cache, repository, file):
    """Lay out a file as the Hugging Face cache does."""
    folder = Path(cache) / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    return snapshot / file


def test_timm_takes_published_weights_from_the_cache(tmp_path):
    net = timm.create_model(TIMM, num_classes=1000)
    state = net.state_dict()
    save_file(state, cached_on_hub(tmp_path / "hub", f"timm/{TIMM}", "model.safetensors"))
    module = Timm(name=TIMM).build()
    assert module.reproducible
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def test_timm_takes_weights_from_a_file_without_the_classifier(tmp_path):
    state = timm.create_model(TIMM, num_classes=7).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    module = Timm(name=TIMM, weights=tmp_path / "mine.safetensors").build()
    assert module.reproducible
    assert all(torch.equal(value, state[name]) for name, value in module.net.state_dict().items())


def damaged(state, how):
    first = next(iter(state))
    if how == "lacks":
        return {name: value for name, value in state.items() if name != first}
    if how == "has unknown":
        return state | {"nonesuch.weight": torch.zeros(1)}
    return state | {first: torch.zeros(3)}


@pytest.mark.parametrize("how", ["lacks", "has unknown", "has other shapes of"])
def test_a_weights_file_has_to_fit_exactly(how, tmp_path):
    state = timm.create_model(TIMM, num_classes=0).state_dict()
    path = tmp_path / "mine.safetensors"
    save_file(damaged(state, how), path)
    offender = "nonesuch.weight" if how == "has unknown" else next(iter(state))
    with pytest.raises(WeightsError, match=f"mine.safetensors .*it {how} {offender}") as error:
        Timm(name=TIMM, weights=path).build()
    assert "\n" not in str(error.value)


def test_a_crop_is_random_by_the_generator_of_torch_alone():
    for spec in [
        Timm(name="test_resnet", pretrained=False, augment="crop-flip"),
        ViT(image_size=SIDE, width=16, depth=1, heads=1, augment="crop-flip"),
        ResNet(layers=(1, 1, 1, 1), width=8, image_size=SIDE, augment="crop-flip"),
    ]:
        module = spec.build()
        samples = samples_of(module)
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(module.augment(samples)["image"])
            random.seed(len(drawn))
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert drawn[0].shape == module.preprocess(samples)["image"].shape
        assert spec.model_copy(update={"augment": "none"}).build().augment is None
    own = Timm(name="test_resnet", pretrained=False, augment="crop-flip").build().augment
    assert "160" in repr(own)
    assert "interpolation=bilinear" in repr(own)


def test_only_what_the_spec_brings_back_is_reproducible(built):
    loaded = [f for f in SPECS if f.startswith(("hf-", "sentence", "timm, p")) and "rand" not in f]
    assert [which for which in SPECS if built(which).reproducible] == [
        which for which in SPECS if which in loaded
    ]


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


def test_long_texts_are_cut(models):
    long = [" ".join(["dog"] * 1000)]
    for spec, longest in [
        (HFText(name=f"{models}/bert"), 24),
        (HFText(name=f"{models}/bert", max_length=7), 7),
        (HFText(name=f"{models}/t5"), 512),
        (SentenceTransformers(name=f"{models}/sentences", max_length=9), 9),
        (TextTransformer(width=8, depth=1, heads=1, max_length=11), 12),
        (CBOW(width=8, max_length=5), 5),
    ]:
        inputs = spec.build().preprocess(long)
        assert {tensor.shape for tensor in inputs.values()} == {(1, longest)}


@every_encoder
def test_what_is_no_sample_is_a_bad_sample(which, built):
    module = built(which)
    for bad in (None, 3, b"bytes", ["a", "b"]):
        with pytest.raises(BadSample) as error:
            module.preprocess([bad])
        assert "\n" not in str(error.value)


TEXT_SPECS = [which for which, make in SPECS.items() if make("").modality == "text"]


@pytest.mark.parametrize("which", TEXT_SPECS)
def test_strange_texts_do_no_harm(which, built):
    module = built(which)
    strange = ["\ud800", "\0", "é" * 500, "🦜" * 300, "日本語の文", " . ", "a\n\tb", "dog" * 9000]
    if "GPT-2" in which:
        with pytest.raises(BadSample, match="an empty text"):
            module.preprocess(["a dog", ""])
    else:
        strange.append("")
    assert features(module, [*strange, *TEXTS]).isfinite().all()


def test_words_are_hashed_the_same_for_ever():
    preprocess = CBOW(width=8, buckets=1000).build().preprocess
    assert preprocess(["Two dogs, ZÜRICH!", "dogs"])["words"].tolist() == [
        [375, 180, 627],
        [180, 0, 0],
    ]


def test_letters_count_however_they_are_written():
    preprocess = CBOW(width=8).build().preprocess
    same = preprocess(["Café", "cafe\u0301", "CAFÉ"])["words"]
    assert same.unique().numel() == 1


def copy_without(source, target, *leave_out):
    target.mkdir()
    for file in source.iterdir():
        if file.name not in leave_out and file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    return str(target)


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
        (HFText(name=no_weights), "no file named model.safetensors"),
        (HFText(name=no_tokenizer), "no tokenizer"),
        (HFImage(name=no_processor), "cannot load preprocessor_config.json"),
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
        assert len(str(error.value)) < 450


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
        (HFImage(name=f"{models}/bert"), "does not take what its preprocessing gives"),
        (HFText(name=f"{models}/vit"), "does not take what its preprocessing gives"),
    ]
    for spec, said in cases:
        with pytest.raises(SpecError, match=said) as error:
            spec.build()
        assert "\n" not in str(error.value)


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


def test_the_menu_imports_no_framework():
    code = """
import sys
from contrastive.encoders import encoders
names = list(encoders.registered)
heavy = {"torch", "timm", "transformers", "sentence_transformers", "torchvision", "numpy", "PIL"}
print(*names, *(heavy & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == list(encoders.registered)
    assert {cls.modality for cls in encoders.registered.values()} == {"image", "text"}
