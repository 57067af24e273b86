"""Fine-tuning: parts of encoders train, at rates of their own, in little memory; the rest stays."""

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from contrastive import RunSpec, build_model, load_model
from contrastive.encoders import HFText, ResNet, TextTransformer, Timm, ViT
from contrastive.errors import MissingExtra, SpecError, WeightsError
from contrastive.nn.layer_stack import layers
from contrastive.reporting.run_log import read_log
from contrastive.spec import TrainingSpec
from contrastive.training.optimizer import optimizer_of, rate_factors, set_rates
from contrastive.training.train import train
from tests.miniature import Picture
from tests.toys import network, toy_dict

VIT = {"type": "vit", "image_size": 32, "patch_size": 8, "width": 16, "depth": 3, "heads": 2}
CAPTIONS = [text for i in range(8) for text in Picture(i).captions]


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    """Return a folder with a tiny DistilBERT and its tokenizer, random and saved as any other."""
    from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizer

    words = sorted({word for text in CAPTIONS for word in text.split()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    vocabulary = {word: number for number, word in enumerate(words)}
    torch.manual_seed(0)
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 2, "vocab_size": len(words)}
    folder = tmp_path_factory.mktemp("distilbert")
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(folder)
    DistilBertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit_weights(tmp_path_factory):
    """Return a file with random weights of timm's smallest vision transformer."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return path


def timm_vit(weights):
    return {"type": "timm", "name": "test_vit", "weights": str(weights)}


def run_of(folder, modality, tower, **training):
    """Return the toy run with another tower, ready to be trained."""
    spec = toy_dict(folder / "data", **training)
    spec["model"]["towers"][modality] = {"head": {"type": "linear"}, "frozen": "encoder"} | tower
    return RunSpec.model_validate(spec)


def state(encoder):
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def changes(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# Partial unfreezing


def partly(name, distilbert, vit_weights):
    """Return a modality, an encoder, patterns, and how the names that they match begin."""
    resnet = {"type": "timm", "name": "test_resnet", "weights": str(network())}
    text = {"type": "hf-text", "name": str(distilbert)}
    return {
        "timm-resnet": ("image", resnet, ["net.layer4.*"], "net.layer4."),
        "timm-vit": ("image", timm_vit(vit_weights), ["net.blocks.5.*"], "net.blocks.5."),
        "vit": ("image", VIT, ["net.blocks.[12].*"], ("net.blocks.1.", "net.blocks.2.")),
        "hf-text": ("text", text, ["*.layer.2.*"], "model.transformer.layer.2."),
    }[name]


NAMES = ("timm-resnet", "timm-vit", "vit", "hf-text")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_pattern_matches_trains_and_the_rest_stays(name, distilbert, vit_weights, tmp_path):
    modality, encoder, patterns, begins = partly(name, distilbert, vit_weights)
    spec = run_of(tmp_path, modality, {"encoder": encoder, "unfrozen": patterns})
    torch.manual_seed(0)
    before = state(build_model(spec).tower(modality).encoder)
    model = train(spec, tmp_path / "run")
    changed = changes(before, state(model.tower(modality).encoder))
    parameters = {n for n, _ in model.tower(modality).encoder.named_parameters()}
    assert changed & parameters == {n for n in parameters if n.startswith(begins)}
    assert all(n.startswith(begins) for n in changed), "buffers of what is frozen moved"
    if name == "timm-resnet":
        assert any("running_mean" in n for n in changed), "BatchNorm that trains did not count"

    again = load_model(tmp_path / "run")
    row = spec.data.build("test")[0][modality]
    assert torch.equal(again.embed(modality, [row]), model.embed(modality, [row]))
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    kept = {n.removeprefix(f"towers.{modality}.encoder.") for n in saved if ".encoder." in n}
    if encoder["type"] == "vit":  # random: its spec does not bring it back
        assert parameters <= kept
    else:
        assert changed <= {n for n in kept if n in before}
        assert all(n.startswith(begins) for n in kept & before.keys() if n not in cbow(model))
    again.save(tmp_path / "again")
    assert torch.equal(
        load_model(tmp_path / "again").embed(modality, [row]), again.embed(modality, [row])
    )


def cbow(model):
    return {n for n, _ in model.tower("text").encoder.named_parameters()}


def test_a_model_refuses_another_frozen_part_than_it_was_trained_with(tmp_path):
    own = tmp_path / "own.safetensors"
    shutil.copy(network(), own)
    encoder = {"type": "timm", "name": "test_resnet", "weights": str(own)}
    spec = run_of(tmp_path, "image", {"encoder": encoder, "unfrozen": ["net.layer4.*"]})
    build_model(spec).save(tmp_path / "model")
    weights = load_file(own)
    weights["layer4.0.bn1.weight"] += 1
    save_file(weights, own)
    load_model(tmp_path / "model")  # that part is in the folder
    weights["layer1.0.bn1.weight"] += 1
    save_file(weights, own)
    with pytest.raises(WeightsError, match="image encoder's weights are not those it was trained"):
        load_model(tmp_path / "model")


def test_only_modules_that_train_whole_are_in_training_mode(distilbert):
    encoder = {"type": "hf-text", "name": str(distilbert)}
    tower = {"encoder": encoder, "unfrozen": ["*.layer.2.*"]}
    encoder = build_model(towers(text=tower)).train().tower("text").encoder
    training = {name for name, module in encoder.named_modules() if module.training}
    assert all(name.startswith("model.transformer.layer.2") for name in training)
    assert "model.transformer.layer.2.attention.dropout" in training
    batch = encoder.preprocess(CAPTIONS[:4])
    hidden = encoder.model.transformer.layer[1]
    seen = []
    hidden.register_forward_hook(lambda *args: seen.append(args[2]))
    first, second = encoder(**batch), encoder(**batch)
    assert torch.equal(seen[0], seen[1]), "dropout is on in what is frozen"
    assert not seen[0].requires_grad, "a graph was built through what is frozen"
    assert not torch.equal(first, second), "dropout is off in what trains"


def towers(image=None, text=None, embed_dim=32):
    cbow = {"encoder": {"type": "cbow", "width": 16, "buckets": 64}, "head": {"type": "linear"}}
    plain = {"head": {"type": "linear"}, "frozen": "encoder"}
    two = {
        "image": plain | image if image else {"encoder": VIT, "head": {"type": "linear"}},
        "text": plain | text if text else cbow,
    }
    return {"embed_dim": embed_dim, "towers": two, "loss": {"type": "infonce"}}


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("net.block.1.*", "close ones begin with: net.blocks.1, "),
        ("blocks.1.*", "did you mean '*.blocks.1.*'?"),
        ("nothing", "names begin with: net.pos_embed, net.patch_embed, net.blocks, net.fc_norm"),
    ],
)
def test_a_pattern_that_matches_nothing_is_a_mistake_in_one_line(pattern, told):
    with pytest.raises(SpecError) as error:
        build_model(towers(image={"encoder": VIT, "unfrozen": [pattern]}))
    line = f"towers.image: unfrozen: {pattern!r} matches no parameter of the encoder; {told}"
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("frozen", ["none", "all"])
@pytest.mark.parametrize("field", [{"unfrozen": ["*"]}, {"lora": {}}])
def test_exceptions_to_frozen_need_a_frozen_encoder(frozen, field):
    with pytest.raises(SpecError, match="set frozen: encoder"):
        build_model(towers(image={"encoder": VIT, "frozen": frozen} | field))


def test_a_run_says_that_features_are_not_cached(tmp_path, capsys):
    tower = {"encoder": VIT, "unfrozen": ["net.blocks.2.*"]}
    train(run_of(tmp_path, "image", tower, epochs=1), tmp_path / "run")
    told = capsys.readouterr().err
    assert "image: a part of the encoder trains, so that its features are not cached" in told
    assert "features image: live" in told


# Learning rates


def test_each_parameter_steps_at_its_own_rate():
    """AdamW with factors is AdamW with a group for each parameter, at the rate worked out here."""
    settings = TrainingSpec(
        lr=1e-2, layer_decay={"image": 0.5}, lr_factors={"towers.text.*": 0.1, "*.bias": 2.0}
    )

    def rate(name):
        found = 1e-2 * (0.1 if name.startswith("towers.text.") else 1)
        found *= 2 if name.endswith(".bias") else 1
        if name.startswith("towers.image.encoder.net.blocks."):
            found *= 0.5 ** (3 - int(name.split(".")[5]))
        elif name.startswith(("towers.image.encoder.net.p",)):  # pos_embed, patch_embed
            found *= 0.5**4
        return found

    def stepped(optimizer_for):
        torch.manual_seed(0)
        model = build_model(towers())
        optimizer, share_ = optimizer_for(model)
        for share in (1.0, 0.3):
            share_(share)
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 0.1 * (i + 1)).cos()
            optimizer.step()
        return dict(model.named_parameters())

    def ours(model):
        optimizer = optimizer_of(model, settings)
        return optimizer, lambda share: set_rates(optimizer, share)

    def slow(model):
        groups = [
            {"params": [p], "weight_decay": 0.01 if p.ndim >= 2 else 0.0, "name": name}
            for name, p in model.named_parameters()
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)

        def share_(share):
            for group in optimizer.param_groups:
                group["lr"] = rate(group["name"]) * share

        return optimizer, share_

    found, right = stepped(ours), stepped(slow)
    for name, parameter in right.items():
        torch.testing.assert_close(found[name], parameter, msg=name)


@pytest.mark.parametrize("name", ["timm-resnet", "timm-vit", "hf-text"])
def test_earlier_layers_have_lower_rates(name, distilbert, vit_weights):
    modality, encoder, *_ = partly(name, distilbert, vit_weights)
    model = build_model(towers(**{modality: {"encoder": encoder, "frozen": "none"}}))
    factors = rate_factors(model, TrainingSpec(layer_decay={modality: 0.5}))
    stack = layers(model.tower(modality).encoder)
    assert len(stack) == {"timm-resnet": 4, "timm-vit": 6, "hf-text": 3}[name]
    names = {p: n for n, p in model.named_parameters()}
    for depth, layer in enumerate(stack, 1):
        found = {factors[names[p]] for p in layer.parameters()}
        assert found == {0.5 ** (len(stack) + 1 - depth)}
    first = next(iter(model.tower(modality).encoder.parameters()))
    assert factors[names[first]] == 0.5 ** (len(stack) + 1)
    assert all(factor == 1 for n, factor in factors.items() if f"{modality}.encoder" not in n)


def test_a_run_logs_the_largest_rate_and_says_all(tmp_path, capsys):
    spec = run_of(
        tmp_path,
        "image",
        {"encoder": VIT, "frozen": "none"},
        epochs=1,
        warmup=0.0,
        lr=1e-3,
        layer_decay={"image": 0.5},
        lr_factors={"towers.image.head.*": 4.0},
    )
    train(spec, tmp_path / "run")
    told = capsys.readouterr().err
    assert "peak learning rates: image.encoder 6.3e-05 to 0.001, image.head 0.004, " in told
    first = next(line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line)
    assert first["lr"] == 4e-3


def test_a_resumed_run_with_rates_and_parts_is_the_one_that_never_stopped(tmp_path):
    spec = run_of(
        tmp_path,
        "image",
        {
            "encoder": {"type": "timm", "name": "test_resnet", "weights": str(network())},
            "head": {"type": "mlp", "dropout": 0.3},
            "unfrozen": ["net.layer[34].*"],
        },
        epochs=3,
        layer_decay={"image": 0.7},
        lr_factors={"towers.text.encoder.*": 0.1},
        checkpoint_activations=["image"],
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(spec, whole)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000012")
    shutil.rmtree(broken / "model")
    train(spec, broken, resume=True)
    left, right = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({"lr_factors": {"tower.text.*": 0.1}}, "lr_factors: 'tower.text.*' matches no parameter"),
        ({"lr_factors": {"towers.image.encoder.*": 0.1}}, "matches no parameter that trains"),
        ({"layer_decay": {"text": 0.5}}, "layer_decay: the text encoder has no stack of layers"),
        ({"checkpoint_activations": ["text"]}, "checkpoint_activations: the text encoder has no"),
    ],
)
def test_rates_and_recomputation_of_nothing_are_mistakes_in_one_line(tmp_path, training, told):
    spec = toy_dict(tmp_path / "data", **training)
    with pytest.raises(SpecError) as error:
        train(RunSpec.model_validate(spec), tmp_path / "run")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field", [{"layer_decay": {"sound": 0.5}}, {"checkpoint_activations": ["sound"]}]
)
def test_settings_of_a_tower_that_is_not_there_are_refused_by_the_spec(field, tmp_path):
    with pytest.raises(ValueError, match="the model has no sound tower; it has: image, text"):
        RunSpec.model_validate(toy_dict(tmp_path / "data", **field))


# Recomputation


def stored(encoder, batch):
    """Return gradients, state after the pass, and bytes that autograd kept, under one seed."""
    encoder.zero_grad(set_to_none=True)
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encoder(**batch)
    size = sum(nbytes for _, nbytes in kept.values())
    (features.square().sum() + features.sum()).backward()
    grads = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    return grads, state(encoder), size


@pytest.mark.parametrize("kind", ["vit", "resnet", "text-transformer", "timm-resnet", "hf-text"])
def test_gradients_are_the_same_with_fewer_bytes_kept(kind, distilbert):
    config, samples = {
        "vit": (ViT(**{k: v for k, v in VIT.items() if k != "type"}), None),
        "resnet": (ResNet(width=4, image_size=32, layers=(4, 4, 2, 2)), None),
        "text-transformer": (
            TextTransformer(width=16, depth=3, heads=2, dropout=0.3),
            CAPTIONS[:6],
        ),
        "timm-resnet": (Timm(name="test_resnet", pretrained=False), None),
        "hf-text": (HFText(name=str(distilbert)), CAPTIONS[:6]),
    }[kind]

    def built():
        torch.manual_seed(0)
        return config.build().train()

    plain, cheap = built(), built()
    batch = plain.preprocess(samples) if samples else {"image": torch.randn(6, 3, 32, 32)}
    cheap.checkpoint_activations()
    cheap.checkpoint_activations()
    (grads, after, size), (found, again, less) = stored(plain, batch), stored(cheap, batch)
    assert grads.keys() == found.keys()
    assert grads
    for name in grads:
        torch.testing.assert_close(found[name], grads[name], rtol=1e-4, atol=1e-5, msg=name)
    assert changes(after, again) == set(), "BatchNorm counted the batch twice"
    assert (
        less < (0.7 if kind in ("vit", "text-transformer", "hf-text") else 0.9) * size
    )  # a stem is not recomputed
    plain.eval(), cheap.eval()
    with torch.no_grad():
        assert torch.equal(plain(**batch), cheap(**batch))


def test_a_decoder_with_lora_recomputes_too(tmp_path, distilbert):
    """It would keep keys and values for generating, and meet its own of the first pass."""
    from transformers import GPT2Config, GPT2Model

    size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 64}
    ends = {"bos_token_id": 2, "eos_token_id": 3}
    GPT2Model(GPT2Config(**size, **ends)).save_pretrained(tmp_path)
    for file in distilbert.glob("*token*"):
        shutil.copy(file, tmp_path)
    tower = {"encoder": {"type": "hf-text", "name": str(tmp_path)}, "lora": {"rank": 2}}
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        encoder = build_model(towers(text=tower)).train().tower("text").encoder
        if recompute:
            encoder.checkpoint_activations()
        grads, _, size = stored(encoder, encoder.preprocess(CAPTIONS[:4]))
        found.append((grads, size))
    (plain, size), (cheap, less) = found
    assert plain.keys() == cheap.keys()
    assert all("lora_" in name for name in plain)
    for name, grad in plain.items():
        torch.testing.assert_close(cheap[name], grad, msg=name)
    assert less < 0.5 * size


@pytest.mark.parametrize("rows", [None, 5])
def test_a_run_that_recomputes_is_the_run_without(tmp_path, rows):
    logs = []
    for name, towers_ in (("plain", []), ("cheap", ["image", "text"])):
        spec = toy_dict(tmp_path / "data", micro_batch=rows, lr=1e-3)
        transformer = {"type": "text-transformer", "width": 16, "depth": 2, "heads": 2}
        two = spec["model"]["towers"]
        two["image"] = {"encoder": VIT, "head": {"type": "linear"}}
        two["text"] = {"encoder": transformer | {"dropout": 0.3}, "head": {"type": "linear"}}
        spec["training"]["checkpoint_activations"] = towers_
        train(RunSpec.model_validate(spec), tmp_path / name)
        lines = read_log(tmp_path / name / "log.jsonl")
        logs.append([line[k] for line in lines if "loss" in line for k in ("loss", "grad_norm")])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


@pytest.mark.parametrize("rows", [None, 5])
def test_recomputed_batch_norm_by_choice_keeps_its_statistics(tmp_path, rows):
    norms = []
    for towers_ in ([], ["image"]):
        encoder = {"type": "timm", "name": "test_resnet", "weights": str(network())}
        spec = run_of(
            tmp_path,
            "image",
            {"encoder": encoder, "frozen": "none"},
            epochs=1,
            lr=1e-3,
            batch_norm="eval",
            micro_batch=rows,
            checkpoint_activations=towers_,
        )
        before = state(build_model(spec).tower("image").encoder)
        run = tmp_path / f"run{len(towers_)}"
        after = state(train(spec, run).tower("image").encoder)
        assert not any("running" in name or "tracked" in name for name in changes(before, after))
        lines = read_log(run / "log.jsonl")
        norms.append([line["grad_norm"] for line in lines if "loss" in line])
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


# LoRA


def with_lora(name, distilbert, vit_weights, **lora):
    if name == "timm-vit":
        return "image", {"encoder": timm_vit(vit_weights), "lora": lora}
    return "text", {"encoder": {"type": "hf-text", "name": str(distilbert)}, "lora": lora}


@pytest.mark.parametrize("name", ["timm-vit", "hf-text"])
def test_lora_trains_its_matrices_alone_and_saves_no_more(name, distilbert, vit_weights, tmp_path):
    modality, tower = with_lora(name, distilbert, vit_weights, rank=2, dropout=0.2)
    spec = run_of(tmp_path, modality, tower, checkpoint_activations=[modality])
    plain = build_model(towers(**{modality: {"encoder": tower["encoder"]}})).tower(modality).encoder
    torch.manual_seed(0)
    started = build_model(spec).eval().tower(modality)
    batch = started.encoder.preprocess([spec.data.build("test")[0][modality]])
    with torch.no_grad():
        assert torch.equal(started.encoder(**batch), plain.eval()(**batch)), "not as at first"
    before = state(started.encoder)

    model = train(spec, tmp_path / "run")
    encoder = model.tower(modality).encoder
    changed = changes(before, state(encoder))
    matrices = {n for n in before if "lora_" in n}
    assert changed == matrices
    assert matrices
    base = {n.replace(".base_layer", "") for n in before.keys() - matrices}
    assert base == plain.state_dict().keys()

    file = tmp_path / "run" / "model" / "model.safetensors"
    saved = load_file(file)
    assert {n for n in saved if n.startswith(f"towers.{modality}.encoder.")} == {
        f"towers.{modality}.encoder.{n}" for n in matrices
    }
    sizes = {n: 4 * t.numel() for n, t in before.items()}
    ours = sum(t.numel() * t.element_size() for n, t in saved.items() if modality in n)
    assert ours < sum(sizes.values()) / 4
    again = load_model(tmp_path / "run")
    row = spec.data.build("test")[0][modality]
    assert torch.equal(again.embed(modality, [row]), model.embed(modality, [row]))


def test_lora_has_dropout_in_training_and_the_base_has_none(distilbert, vit_weights):
    _, tower = with_lora("hf-text", distilbert, vit_weights, dropout=0.5)
    encoder = build_model(towers(text=tower)).train().tower("text").encoder
    dropouts = {n: m.training for n, m in encoder.named_modules() if isinstance(m, nn.Dropout)}
    assert {n for n, on in dropouts.items() if on} == {n for n in dropouts if "lora" in n}
    assert any("lora" in n for n in dropouts)


def test_lora_takes_the_layers_that_are_named(vit_weights):
    tower = {"encoder": timm_vit(vit_weights), "lora": {"targets": ["*.blocks.[45].mlp.fc?"]}}
    tower["unfrozen"] = ["net.norm.*"]
    encoder = build_model(towers(image=tower)).tower("image").encoder
    trained = {n.partition(".lora_")[0] for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained == {f"net.blocks.{b}.mlp.fc{n}" for b in (4, 5) for n in (1, 2)} | {
        "net.norm.weight",
        "net.norm.bias",
    }


def test_lora_leaves_out_layers_that_are_not_called():
    """timm's BEiT multiplies by ``qkv.weight`` itself, so that matrices there would never train."""
    from timm.models.beit import Beit

    from contrastive.model.lora import add_lora
    from contrastive.spec import LoRA

    net = Beit(img_size=16, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    add_lora(net, LoRA(rank=2))
    for name, parameter in net.named_parameters():
        nn.init.ones_(parameter) if "lora_B" in name else None
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    trained = {name: p.grad for name, p in net.named_parameters() if p.requires_grad}
    assert {name.partition(".lora_")[0] for name in trained} == {
        f"blocks.{depth}.attn.proj" for depth in (0, 1)
    }
    assert all(grad is not None and grad.any() for grad in trained.values())


def test_lora_without_a_layer_to_go_beside_is_a_mistake_in_one_line(vit_weights):
    asked = {"encoder": timm_vit(vit_weights), "lora": {"targets": ["*.query"]}}
    with pytest.raises(
        SpecError, match=r"^towers.image: lora.targets: '\*.query' matches no linear"
    ):
        build_model(towers(image=asked))
    transformer = {"type": "text-transformer", "width": 16, "depth": 2, "heads": 2}
    with pytest.raises(SpecError, match=r"^towers.text: lora: the encoder has no linear layers in"):
        build_model(towers(text={"encoder": transformer, "lora": {}}))


def test_lora_without_peft_says_what_to_install(vit_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r'pip install "contrastive-kit\[lora\]"'):
        build_model(towers(image={"encoder": timm_vit(vit_weights), "lora": {}}))
