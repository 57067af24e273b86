"""An encoder keeps its promises, also of a model that a user names, or it is refused at once."""

import multiprocessing
import shutil
from inspect import signature

import pytest
import torch
import transformers as t
from PIL import Image

from contrastive import build_model, load_model, train
from contrastive.encoders import CBOW, HFDualImage, HFDualText, HFImage, HFText, encoders
from contrastive.encoders.cbow import CBOWModule
from contrastive.encoders.text import tokenizing
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.encoders.trial import broken_promise, measure_out_dim
from contrastive.errors import SpecError
from contrastive.features.encoder_key import encoder_key
from tests import duals
from tests.tiny_encoders import TEXTS, bert_tokenizer, features, gpt_tokenizer, samples_of
from tests.toys import toy_dict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]

LONG = "the cat sat on a mat with two dogs " * 20
BODY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 32}
BODY |= {"num_attention_heads": 2}
PARTS = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
PARTS |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 32}


def save(model, folder, tokenizer=None):
    model.save_pretrained(folder)
    (tokenizer or bert_tokenizer()).save_pretrained(folder)
    return str(folder)


def one_by_one(module, samples):
    return torch.cat([features(module, [sample]) for sample in samples])


def by_transformers(folder, pool):
    """What transformers gives for each text by itself, without padding."""
    model, tokenizer = t.AutoModel.from_pretrained(folder).eval(), bert_tokenizer()
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    with torch.no_grad():
        return torch.stack(
            [pool(model(**tokenizer(x, return_tensors="pt")).last_hidden_state[0]) for x in TEXTS]
        )


PADDING_COUNTS = {
    "in convolutions": lambda: t.ConvBertModel(t.ConvBertConfig(**BODY, embedding_size=16)),
    "in Fourier transforms": lambda: t.FNetModel(
        t.FNetConfig(**{k: v for k, v in BODY.items() if "heads" not in k})
    ),
    "in hashes": lambda: t.YosoModel(t.YosoConfig(**BODY)),
}


@pytest.mark.parametrize("where", PADDING_COUNTS)
def test_where_padding_counts_texts_of_a_length_run_together(where, tmp_path, capsys):
    folder = save(PADDING_COUNTS[where](), tmp_path)
    module = HFText(name=folder).build()
    assert "padding changes its features, so texts of a length are run" in capsys.readouterr().err
    found = features(module, [*TEXTS, LONG])
    assert torch.equal(found, one_by_one(module, [*TEXTS, LONG]))
    torch.testing.assert_close(found[:-1], by_transformers(folder, lambda x: x.mean(0)))


def test_such_a_model_that_is_trained_saved_and_loaded_embeds_as_before(tmp_path):
    folder = save(PADDING_COUNTS["in convolutions"](), tmp_path / "hf")
    towers = {
        "text": {"encoder": {"type": "hf-text", "name": folder}, "head": {"type": "linear"}},
        "image": {"encoder": {"type": "resnet", "width": 4}, "head": {"type": "linear"}},
    }
    model = build_model({"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}})
    inputs = model.tower("text").encoder.preprocess(TEXTS)
    model.tower("text")(**inputs).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.tower("text").parameters())
    expected = model.embed("text", TEXTS)
    model.save(tmp_path / "saved")
    torch.testing.assert_close(load_model(tmp_path / "saved").embed("text", TEXTS), expected)


def test_a_model_that_needs_several_tokens_gets_all_texts_padded_alike(tmp_path, capsys):
    config = t.CanineConfig(**BODY | {"max_position_embeddings": 30}, num_hash_buckets=50)
    module = HFText(name=save(t.CanineModel(config), tmp_path)).build()
    assert (
        "padding changes its features, so all texts are padded to 30 tokens"
        in capsys.readouterr().err
    )
    samples = [*TEXTS, "a", LONG]
    torch.testing.assert_close(features(module, samples), one_by_one(module, samples))


def reformer():
    axes = {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 8], "attn_layers": ["lsh"]}
    chunks = {"lsh_attn_chunk_length": 8, "num_buckets": 4, "max_position_embeddings": 64}
    size = {"hidden_size": 16, "feed_forward_size": 24, "vocab_size": 32, "num_attention_heads": 2}
    return t.ReformerModel(t.ReformerConfig(**axes, **chunks, **size, attention_head_size=8))


def broken_bert():
    model = t.BertModel(t.BertConfig(**BODY))
    model.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "tokenizer", "fields", "said"),
    [
        (reformer, bert_tokenizer, {}, "differ between two calls in eval mode.*choose another"),
        (broken_bert, bert_tokenizer, {}, "features are not finite; choose another model"),
        (
            lambda: t.GPT2Model(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32)),
            gpt_tokenizer,
            {"pooling": "cls"},
            "all texts have the same features; choose another pooling",
        ),
        (
            lambda: t.BertModel(t.BertConfig(**BODY)),
            bert_tokenizer,
            {"prompt": "a dog and a cat ", "max_length": 5},
            "same features; choose another pooling .*, or a larger max_length",
        ),
    ],
)
def test_a_text_model_that_breaks_a_promise_is_refused(model, tokenizer, fields, said, tmp_path):
    folder = save(model(), tmp_path, tokenizer())
    with pytest.raises(SpecError, match=said) as error:
        HFText(name=folder, **fields).build()
    assert str(error.value).startswith(f"hf-text {folder!r}: ")
    assert "\n" not in str(error.value)


def test_a_masked_autoencoder_sees_all_patches_in_their_order(tmp_path, capsys):
    body = {k: v for k, v in BODY.items() if k != "vocab_size"}
    model = t.ViTMAEModel(t.ViTMAEConfig(**body, image_size=32, patch_size=8)).eval()
    model.save_pretrained(tmp_path)
    t.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    processor = t.AutoImageProcessor.from_pretrained(tmp_path)
    module = HFImage(name=str(tmp_path)).build()
    assert "mask_ratio of 0.75 is set to 0" in capsys.readouterr().err
    samples = samples_of(module)
    state, found = torch.get_rng_state(), features(module, samples)
    assert torch.equal(features(module, samples), found)
    assert torch.equal(torch.get_rng_state(), state)
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        out = model(**processor(samples, return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(found, out.mean(1))


def detr(size):
    stages = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    backbone = t.ResNetConfig(**stages, out_features=["stage4"])
    own = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    config = t.DetrConfig(**PARTS, **own, num_queries=5, backbone_config=backbone)
    return t.DetrModel(config), t.DetrImageProcessor(size=size)


def siglip2(half):
    body = {k: v for k, v in BODY.items() if k != "vocab_size"}
    vision = {**body, "patch_size": 8, "num_patches": 16}
    config = t.Siglip2Config(text_config=BODY, vision_config=vision)
    model = t.Siglip2VisionModel(config.vision_config) if half else t.Siglip2Model(config)
    return model, t.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)


IMAGES = {
    "DETR": lambda: detr({"height": 64, "width": 64}),
    "SigLIP 2": lambda: siglip2(half=False),
    "SigLIP 2's half": lambda: siglip2(half=True),
}


@pytest.mark.parametrize("which", IMAGES)
def test_image_models_of_several_inputs_or_parts_give_what_transformers_gives(which, tmp_path):
    model, processor = IMAGES[which]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    processor = t.AutoImageProcessor.from_pretrained(tmp_path)
    module = HFImage(name=str(tmp_path)).build()
    samples = samples_of(module)[:3]
    vision = model.vision_model if which == "SigLIP 2" else model
    for sample, found in zip(samples, features(module, samples), strict=True):
        inputs = processor(images=[sample], return_tensors="pt")
        mask = inputs.get("pixel_attention_mask")
        if mask is not None and "attention_mask" in signature(vision.forward).parameters:
            inputs["attention_mask"] = inputs.pop("pixel_attention_mask")  # transformers 5.1
        with torch.no_grad():
            states = vision.eval()(**inputs).last_hidden_state[0]
        if mask is not None:
            states = states[mask[0].bool()]
        torch.testing.assert_close(found, states.mean(0), atol=1e-5, rtol=1e-4)


def test_images_that_keep_their_shapes_are_run_by_size(tmp_path):
    model, processor = detr({"shortest_edge": 64, "longest_edge": 128})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder = HFImage(name=str(tmp_path)).build().eval()
    images = [Image.new("RGB", size, "teal") for size in ((64, 64), (96, 64), (64, 64), (64, 90))]
    together = encoder(**encoder.preprocess(images))
    alone = torch.cat([encoder(**encoder.preprocess([image])) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_dual_model_whose_images_keep_their_shapes_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "clip", tmp_path / "clip")
    t.CLIPImageProcessor(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(folder)
    with pytest.raises(SpecError, match=r"one height and width .* or crop them"):
        HFDualImage(name=str(folder)).build()


class LessTheirMean(TokenEncoder):
    """Tokens to the mean of all places, padding too, less that of the batch."""

    def __init__(self):
        super().__init__()
        self.preprocess = tokenizing(bert_tokenizer(), 512, who="it")
        self.table = torch.nn.Embedding(32, 4)

    def encode(self, input_ids, **_):
        features_BF = self.table(input_ids).mean(1)
        return features_BF - features_BF.mean(0) + 1 / input_ids.shape[1]


def test_running_texts_of_a_length_together_does_not_hide_what_a_batch_changes():
    with pytest.raises(SpecError, match="with what else is in its batch"):
        measure_out_dim(LessTheirMean(), "a picture", "it")


LIMITS = {
    "none": (
        lambda: t.XLNetModel(t.XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=24)),
        512,
    ),
    "max_seq_len": (
        lambda: t.MptModel(
            t.MptConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=32, max_seq_len=20)
        ),
        20,
    ),
    "max_encoder_position_embeddings": (
        lambda: t.LEDModel(
            t.LEDConfig(
                **PARTS, vocab_size=32, attention_window=4, max_encoder_position_embeddings=20
            )
        ),
        20,
    ),
}


@pytest.mark.parametrize("field", LIMITS)
def test_the_longest_text_is_found_whatever_a_config_calls_it(field, tmp_path):
    make, longest = LIMITS[field]
    module = HFText(name=save(make(), tmp_path)).build()
    assert module.preprocess.max_length == longest
    assert features(module, [LONG * 10]).isfinite().all()


def test_the_longest_text_of_a_dual_model_is_found_too(tmp_path):
    """An AltCLIP reads texts by an XLM-R, which counts positions from behind the padding's."""
    folder = duals.save_altclip(tmp_path / "altclip")
    config = t.AltCLIPConfig.from_pretrained(folder)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(folder)
    module = HFDualText(name=str(folder)).build()
    texts = config.text_config
    assert module.preprocess.max_length == texts.max_position_embeddings - texts.pad_token_id - 1
    assert features(module, [LONG * 10]).isfinite().all()


WHOLE = {
    "T5's encoder alone": lambda: t.T5EncoderModel(t.T5Config(**T5)),
    "Marian, without its sinusoids": lambda: t.MarianMTModel(
        t.MarianConfig(**PARTS, vocab_size=32, max_position_embeddings=64, pad_token_id=0)
    ),
    "FSMT, whose encoder has no config": lambda: t.FSMTModel(
        t.FSMTConfig(
            **PARTS,
            langs=["en", "de"],
            src_vocab_size=32,
            tgt_vocab_size=32,
            max_position_embeddings=64,
            pad_token_id=0,
        )
    ),
}


@pytest.mark.parametrize("which", WHOLE)
def test_of_an_encoder_decoder_the_encoder_has_to_be_whole(which, tmp_path):
    model = WHOLE[which]().eval()
    module = HFText(name=save(model, tmp_path)).build()
    encoder, tokenizer = model.get_encoder(), bert_tokenizer()
    with torch.no_grad():
        expected = [
            encoder(**tokenizer(x, return_tensors="pt")).last_hidden_state[0].mean(0) for x in TEXTS
        ]
    torch.testing.assert_close(features(module, TEXTS), torch.stack(expected))


def test_texts_are_lowered_where_the_tokenizer_says_so_and_does_not(tmp_path, capsys):
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyzABD"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    for lower in (True, False):
        tokenizer = t.GemmaTokenizer(vocab=vocabulary, merges=[], do_lower_case=lower)
        model = t.BertModel(t.BertConfig(**BODY | {"vocab_size": 64}))
        folder = save(model, tmp_path / str(lower), tokenizer)
        preprocess = HFText(name=folder).build().preprocess
        upper, small = (preprocess([x])["input_ids"].tolist() for x in ("A Bad Dog", "a bad dog"))
        assert (upper == small) is lower
        told = "put into lower case, as the tokenizer's config says" in capsys.readouterr().err
        assert told is lower


def test_a_prompt_stands_before_each_text_and_is_kept_with_the_model(models, tmp_path):
    plain, prompted = (HFText(name=f"{models}/bert", prompt=p) for p in ("", "two dogs "))
    built = [spec.build() for spec in (plain, prompted)]
    expected = features(built[0], [f"two dogs {text}" for text in TEXTS])
    torch.testing.assert_close(features(built[1], TEXTS), expected)
    keys = [encoder_key(*pair) for pair in zip((plain, prompted), built, strict=True)]
    assert keys[0]["preprocess"] != keys[1]["preprocess"]
    towers = {
        "text": {"encoder": prompted, "head": {"type": "linear"}, "frozen": "all"},
        "image": {"encoder": {"type": "resnet", "width": 4}, "head": {"type": "linear"}},
    }
    model = build_model({"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}})
    model.save(tmp_path / "saved")
    loaded = load_model(tmp_path / "saved")
    assert loaded.spec.towers["text"].encoder.prompt == "two dogs "
    torch.testing.assert_close(loaded.embed("text", TEXTS), model.eval().embed("text", TEXTS))


SMALL = {"width": 8, "buckets": 64}


def run_of(encoder, data, **training):
    """Return the spec of a short run whose texts an encoder that is not ours encodes."""
    spec = toy_dict(data, images=12, batch_size=8, epochs=1, **training)
    towers = spec["model"]["towers"]
    towers["text"]["encoder"] = {"type": encoder} | ({} if "defect" in encoder else SMALL)
    size = {"image_size": 16, "patch_size": 8, "width": 8, "depth": 1, "heads": 1}
    towers["image"] = {"encoder": {"type": "vit", **size}, "head": {"type": "linear"}}
    return spec


BROKEN = {
    "dropout": "features differ between two calls in eval mode, .* only if self.training",
    "padding": "when it is padded to longer ones; .* let it mask padding",
    "sorts": "features of a sample change by",
    "squeeze": r"features of a batch of 1 have the shape \(8,\); .* let it return \[B, out_dim\]",
    "width": "wide, but the module says .* let it give, and say, one width",
}


@pytest.mark.parametrize("defect", BROKEN)
def test_an_encoder_of_another_package_is_tried_before_a_run(defect, installed, tmp_path):
    installed("healthy", f"defect_{defect}")
    with pytest.raises(SpecError, match=BROKEN[defect]) as error:
        train(run_of(f"defect-{defect}", tmp_path / "data"), tmp_path / "run")
    who = f"towers.text: defect-{defect} of contrastive-defect-{defect} 0.1.0: "
    assert str(error.value).startswith(who)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "log.jsonl").exists()


class Hollow(CBOW):
    """Words to nothing."""

    def build(self):
        module = super().build()
        with torch.no_grad():
            for weight in module.parameters():
                weight.fill_(float("nan"))
        return module


def test_so_is_one_of_the_program_itself(tmp_path):
    encoders.register("hollow")(Hollow)
    with pytest.raises(SpecError, match=r"^towers.text: hollow: features are not finite; choose"):
        train(run_of("hollow", tmp_path / "data"), tmp_path / "run")


class TypedModule(CBOWModule):
    """Gives numbers of another type."""

    def forward(self, **inputs):
        features = super().forward(**inputs)
        numbers = getattr(torch, TypedModule.kind, None)
        return (features * 9).to(numbers) if numbers else {"features": features}


class Typed(CBOW):
    """Words to numbers of another type."""

    def build(self):
        return TypedModule(self)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64", "int64", "bool"])
@pytest.mark.parametrize("frozen", ["none", "encoder"])
def test_features_may_be_real_numbers_of_any_type(kind, frozen, monkeypatch):
    monkeypatch.setattr(TypedModule, "kind", kind, raising=False)
    tower = {"encoder": Typed(**SMALL), "head": {"type": "linear"}, "frozen": frozen}
    towers = {"text": tower, "image": {**tower, "encoder": {"type": "resnet", "width": 4}}}
    model = build_model({"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}})
    features = model.tower("text").encoder(**model.tower("text").encoder.preprocess(TEXTS))
    expected = torch.nn.functional.normalize(model.tower("text").head(features.float()), dim=-1)
    torch.testing.assert_close(model.embed("text", TEXTS), expected.detach())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("a dict", "forward gives a dict"),
        ("complex64", "complex .*; .* let it return real numbers"),
    ],
)
def test_what_is_no_real_number_is_refused_before_a_run(kind, said, tmp_path, monkeypatch):
    encoders.register("typed")(Typed)
    monkeypatch.setattr(TypedModule, "kind", kind, raising=False)
    with pytest.raises(SpecError, match=f"^towers.text: typed: .*{said}"):
        train(run_of("typed", tmp_path / "data"), tmp_path / "run")


class ShortModule(CBOWModule):
    """Words through layers in fp16, whose sums are rounded otherwise in another batch."""

    def __init__(self, spec):
        super().__init__(spec)
        self.net = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(8))).half()

    def forward(self, **inputs):
        return self.net(super().forward(**inputs).half())


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_rounding_of_fp16_breaks_no_promise_and_dropout_does(share):
    module = ShortModule(CBOW(width=256, buckets=64))
    module.net.append(torch.nn.Dropout(share)).train = lambda _: module.net
    found = broken_promise(module, TEXTS[:3])
    assert (found.promise if found else None) == ("repeatable" if share else None)


class Closure(CBOW):
    """Words by a function that cannot be sent."""

    def build(self):
        module = super().build()
        inner = module.preprocess
        module.preprocess = lambda samples: inner([*samples])
        return module


def test_preprocessing_that_workers_cannot_get_is_told_before_a_run(tmp_path, monkeypatch):
    encoders.register("closure")(Closure)
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(multiprocessing, "get_context", lambda: context)
    spec = run_of("closure", tmp_path / "data", workers=1)
    with pytest.raises(SpecError, match=r"cannot be sent to workers .* set training.workers: 0"):
        train(spec, tmp_path / "run")
    spec["training"]["workers"] = 0
    train(spec, tmp_path / "run")


class NormedModule(CBOWModule):
    """Depends on the batch and draws random numbers, while it trains."""

    def __init__(self, spec):
        super().__init__(spec)
        self.norm = torch.nn.BatchNorm1d(self.out_dim)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, **inputs):
        return self.dropout(self.norm(super().forward(**inputs)))


class Normed(CBOW):
    """Words, normalised over the batch."""

    def build(self):
        return NormedModule(self)


def test_trying_an_encoder_changes_no_number_of_a_run(tmp_path, monkeypatch):
    encoders.register("normed")(Normed)
    spec = run_of("normed", tmp_path / "data")
    first = train(spec, tmp_path / "a").state_dict()
    monkeypatch.setattr("contrastive.training.batches.check_foreign", lambda *_, **__: None)
    second = train(spec, tmp_path / "b").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
