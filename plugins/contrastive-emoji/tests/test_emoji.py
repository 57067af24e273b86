"""What the dataset ``emoji`` promises."""

import hashlib
import io
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from multiprocessing import get_all_start_methods, get_context
from typing import get_args

import pytest
from contrastive_emoji import CLASSES, Emoji
from contrastive_emoji.dataset import DATA, PHRASES, SPLITS, Language
from PIL import Image

from contrastive.interface import SpecError, datasets
from contrastive.testing import check_component

EMOJI = json.loads((DATA / "emoji.json").read_text("utf-8"))
NAMES = {
    code: words[0]
    for code, words in json.loads((DATA / "captions" / "en.json").read_text("utf-8")).items()
}
CODES = {name: code for code, name in NAMES.items()}
CONCEPTS = {e["code"]: e["concept"] for e in EMOJI}


def concept(name):
    return CONCEPTS[CODES[name]]


def every(samples):
    return [samples[i] for i in range(len(samples))]


def test_a_slice_is_a_list_of_rows():
    samples = Emoji().build("test")
    assert samples[:2] == [samples[0], samples[1]]
    assert samples[-1:] == [samples[len(samples) - 1]]


def test_is_found_under_its_name():
    assert datasets["emoji"] is Emoji
    assert Emoji().model_dump()["type"] == "emoji"


@pytest.mark.parametrize(("split", "rows"), [("test", 500), ("val", 150), ("train", 1031)])
def test_evaluation_has_one_google_picture_and_one_name_of_each_concept(split, rows):
    samples = every(Emoji().build(split))
    assert len(samples) == rows
    for key in ("id", "text", "image", "source"):
        assert len({sample[key] for sample in samples}) == rows
    assert all(sample["source"].endswith(" google") for sample in samples)
    assert {sample["text"] for sample in samples} <= CODES.keys()


def test_training_has_every_picture_and_two_captions_of_it():
    rows = every(Emoji().build("train", purpose="training"))
    assert len(rows) == 4272
    assert len({row["id"] for row in rows}) == 1176
    assert set(Counter(row["source"] for row in rows).values()) == {2}
    texts = [row["text"] for row in rows if row["source"] == "emoji U+1F34C google"]
    assert texts == ["banana", "banana: fruit, potassium"]


def test_a_third_caption_is_a_phrase():
    one, three = (Emoji(captions_per_image=n).build("train", purpose="training") for n in (1, 3))
    assert len(three) == 3 * len(one)
    assert three[2]["text"] == f"an emoji of {one[0]['text']}"


def test_a_sample_says_what_it_is():
    sample = next(s for s in every(Emoji().build("train")) if s["text"] == "banana")
    assert sample["label"] == "food and drink"
    assert sample["source"] == "emoji U+1F34C google"
    assert isinstance(sample["image"], bytes)
    assert isinstance(sample["id"], int)


def test_one_emoji_has_one_group_id_whoever_drew_it():
    groups = defaultdict(set)
    for row in Emoji().build("train", purpose="training").rows:
        groups[row.code].add(row.group)
    assert all(len(ids) == 1 for ids in groups.values())


def test_classes_are_the_groups_of_cldr_and_all_are_tested():
    samples = Emoji().build("test")
    assert samples.classes == CLASSES == tuple(dict.fromkeys(e["label"] for e in EMOJI))
    assert {sample["label"] for sample in every(samples)} == set(CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize(("vendor", "count", "side"), [("google", 1905, 64), ("fluent", 1563, 96)])
def test_every_picture_decodes_and_is_transparent_and_square(vendor, count, side):
    images = {
        sample["source"]: sample["image"]
        for sample in every(Emoji(vendors=(vendor,)).build("train+val+test", purpose="training"))
    }
    assert len(images) == count
    for image in map(io.BytesIO, images.values()):
        with Image.open(image) as picture:
            assert (picture.format, picture.size) == ("WEBP", (side, side))
            assert picture.convert("RGBA").getchannel("A").getextrema()[1] > 0


def test_splits_share_neither_concepts_nor_emoji_nor_pictures():
    seen = {}
    for split in SPLITS:
        samples = Emoji().build(split, purpose="training")
        for row, sample in zip(samples.rows, every(samples), strict=True):
            for thing in (CONCEPTS[row.code], row.code, sample["image"]):
                assert seen.setdefault(thing, split) == split


def test_splits_follow_from_the_hash_of_the_concept():
    order = sorted(set(CONCEPTS.values()), key=lambda code: hashlib.sha256(code.encode()).digest())
    dealt = dict.fromkeys(order, "train")
    dealt |= dict.fromkeys(order[:500], "test") | dict.fromkeys(order[500:650], "val")
    assert all(e["split"] == dealt[e["concept"]] for e in EMOJI)


def test_men_women_and_persons_who_do_the_same_are_one_concept():
    same = defaultdict(set)
    for name in NAMES.values():
        deed = re.sub("^(man|woman|person|men|women|people)(?= |:|$)", "", name)
        same[deed.removesuffix(": facing right").strip()].add(concept(name))
    assert all(len(concepts) == 1 for concepts in same.values())


@pytest.mark.parametrize(
    "names",
    [
        ("merman", "mermaid", "merperson"),
        ("prince", "princess", "person with crown"),
        ("Santa Claus", "Mrs. Claus", "Mx Claus"),
        ("old man", "old woman", "older person"),
        ("boy", "girl", "child"),
        ("man dancing", "woman dancing"),
        ("pregnant man", "pregnant woman", "pregnant person"),
        ("kiss", "kiss: woman, woman"),
        ("men holding hands", "people holding hands"),
        ("family: man, girl", "family: adult, child"),
        ("man running", "person running: facing right"),
        ("flag: Norway", "flag: Bouvet Island"),
    ],
)
def test_one_concept(names):
    assert len({concept(name) for name in names}) == 1


@pytest.mark.parametrize("names", [("cat", "cat face"), ("family", "kiss"), ("child", "baby")])
def test_different_concepts(names):
    assert len({concept(name) for name in names}) == len(names)


def test_a_concept_is_shown_by_its_neutral_emoji():
    shown = {NAMES[code] for code in CONCEPTS.values()}
    assert {"person running", "farmer", "merperson", "flag: Norway"} <= shown
    assert not shown & {"man running", "woman farmer", "mermaid", "flag: Bouvet Island"}


def test_there_are_no_skin_tones():
    assert not any(re.search("1F3F[B-F]", code) for code in NAMES)


def test_fluent_has_only_what_microsoft_published():
    drawn = {NAMES[e["code"]] for e in EMOJI if "fluent" in e["vendors"]}
    assert not drawn & {"paperclip", "video game", "technologist", "family", "kiss"}
    assert not any(name.startswith(("flag: ", "family: ")) for name in drawn)


@pytest.mark.parametrize("language", get_args(Language))
def test_every_language_names_every_emoji_in_its_own_words(language):
    names = [s["text"] for s in every(Emoji(languages=(language,)).build("test"))]
    english = [s["text"] for s in every(Emoji().build("test"))]
    assert len(set(names)) == 500
    assert "{}" in PHRASES[language]
    if language != "en":
        assert sum(a != b for a, b in zip(names, english, strict=True)) > 450


def test_training_has_the_captions_of_every_language():
    two = Emoji(languages=("en", "ja")).build("train", purpose="training")
    assert len(two) == 2 * len(Emoji().build("train", purpose="training"))


def test_splits_can_be_joined():
    both = Emoji().build("train+val")
    assert len(both) == len(Emoji().build("train")) + len(Emoji().build("val"))


@pytest.mark.parametrize("split", ["tset", "train+tset", "", "train+"])
def test_an_unknown_split_is_one_line_with_the_known_ones(split):
    with pytest.raises(ValueError, match=r"^emoji: no split '\w*'; there are: train, val, test"):
        Emoji().build(split)


@pytest.mark.parametrize(
    "fields",
    [{"vendors": ()}, {"vendors": ("apple",)}, {"languages": ("tlh",)}, {"captions_per_image": 0}],
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(SpecError):
        Emoji(**fields)


@pytest.mark.parametrize("split", SPLITS)
def test_it_keeps_what_datasets_promise(split):
    check_component(Emoji(languages=("en", "ja")), split=split)


def test_an_index_past_the_end_is_an_error():
    with pytest.raises(IndexError):
        Emoji().build("test")[500]


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_workers_do_not_share_a_place_in_the_file():
    samples = Emoji().build("test")
    here = every(samples)
    with get_context("fork").Pool(2) as pool:
        assert pool.map(samples.__getitem__, range(500), chunksize=5) == here


@pytest.mark.slow
def test_neither_importing_nor_reading_imports_torch():
    code = (
        "import sys; from contrastive_emoji import Emoji; Emoji().build('test')[0];"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_are_small_and_carry_their_licences():
    files = [file for file in DATA.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    statement = (DATA / "ATTRIBUTION.md").read_text("utf-8")
    licences = list((DATA / "LICENSES").iterdir())
    assert len(licences) == 5
    assert all(f"(LICENSES/{file.name})" in statement for file in licences)
    assert all("permission" in file.read_text("utf-8").lower() for file in licences)
