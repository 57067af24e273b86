"""Runs and models whose encoders train in part."""

import torch
from safetensors.torch import save_file

from contrastive import RunSpec
from tests.miniature import Picture
from tests.toys import network, toy_dict

VIT = {"type": "vit", "image_size": 32, "patch_size": 8, "width": 16, "depth": 3, "heads": 2}
CAPTIONS = [text for i in range(8) for text in Picture(i).captions]


def save_distilbert(folder):
    """Save a tiny DistilBERT with random weights, and its tokenizer."""
    from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizer

    words = sorted({word for text in CAPTIONS for word in text.split()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    vocabulary = {word: number for number, word in enumerate(words)}
    torch.manual_seed(0)
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 2, "vocab_size": len(words)}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(folder)
    DistilBertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)
    return folder


def save_vit(path):
    """Save random weights of timm's smallest vision transformer."""
    import timm

    torch.manual_seed(0)
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


def towers(image=None, text=None, embed_dim=32):
    cbow = {"encoder": {"type": "cbow", "width": 16, "buckets": 64}, "head": {"type": "linear"}}
    plain = {"head": {"type": "linear"}, "frozen": "encoder"}
    two = {
        "image": plain | image if image else {"encoder": VIT, "head": {"type": "linear"}},
        "text": plain | text if text else cbow,
    }
    return {"embed_dim": embed_dim, "towers": two, "loss": {"type": "infonce"}}
