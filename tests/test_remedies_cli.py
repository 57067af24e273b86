"""What the command line proposes is what one types next: it is carried out here, word for word."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest

from contrastive import build_model
from tests.toys import tiny_model, write_noise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a saved model and with data, whose commands leave it as it is."""
    place = tmp_path_factory.mktemp("place")
    build_model(tiny_model("infonce")).save(place / "saved")
    for name in ("images", "shots"):
        (place / name).mkdir()
    write_noise(place / "shots")
    for i, path in enumerate(write_noise(place / "images", 40)):
        (place / "classes" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / "classes" / f"{i % 2}")
    lines = (f"{i}.png,a {i % 2} of {i},{('train', 'val', 'test')[i % 3]}" for i in range(40))
    (place / "images" / "captions.csv").write_text("\n".join(["image,text,split", *lines]))
    for name in ("shots/0.png", "shots/1.png"):
        shutil.copy(place / name, place)
    (place / "words.txt").write_text("a red circle\na blue square\n")
    (place / "classes.txt").write_text("dog\ncat\n")
    (place / "model.json").write_text(json.dumps(tiny_model("infonce")))
    data = {"type": "image-folder", "folder": "images"}
    (place / "run.json").write_text(json.dumps({"model": tiny_model("infonce"), "data": data}))
    build_model(tiny_model("sigmoid")).save(place / "other")
    return place


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONTRASTIVE_MODEL", "saved")
    return place


CLASSIFY = "classify 0.png"
PROBE = "probe --data classes --seeds 1 -k 5"
NEW = "plugins new"
INIT = "init image-folder -o"
COMPARE = "compare saved other"
ASK = "answer 0.png --question 'is there a dog?'"
LINES = [  # what is typed, what is told, and what is typed instead
    (CLASSIFY, "--classes dog,cat or --classes-file FILE", f"{CLASSIFY} --classes dog,cat"),
    (CLASSIFY, "or --classes-file FILE", f"{CLASSIFY} --classes-file classes.txt"),
    (
        f"{CLASSIFY} --classes dog",
        "give several: --classes dog,cat",
        f"{CLASSIFY} --classes dog,cat",
    ),
    (
        f"{CLASSIFY} --classes classes.txt",
        "classes.txt is taken as a name; to read it, --classes-file classes.txt",
        f"{CLASSIFY} --classes-file classes.txt",
    ),
    (
        f"{CLASSIFY} --classes dog,cat --classes-file classes.txt",
        "--classes and --classes-file: give one of them",
        f"{CLASSIFY} --classes-file classes.txt",
    ),
    (
        f"{CLASSIFY} --classes dog,cat --templates cifar --template 'a {{}}'",
        "give a set or sentences, not both",
        f"{CLASSIFY} --classes dog,cat --template 'a {{}}'",
    ),
    (
        f"{CLASSIFY} --classes dog,cat --templates imagnet",
        "did you mean 'imagenet'?",
        f"{CLASSIFY} --classes dog,cat --templates imagenet",
    ),
    (
        f"{CLASSIFY} --classes dog,cat --template 'a photo'",
        "has no {} for the class",
        f"{CLASSIFY} --classes dog,cat --template 'a photo of {{}}'",
    ),
    (
        f"{CLASSIFY} --classes dog,cat,dog",
        "class 'dog' is given twice; give each once",
        f"{CLASSIFY} --classes dog,cat",
    ),
    (
        f"{CLASSIFY} --classes n01440764,n01443537",
        "by names, such as 'tench'",
        f"{CLASSIFY} --classes tench,shark",
    ),
    (f"{CLASSIFY} --classes 狗,猫", "or '{}' alone", f"{CLASSIFY} --classes 狗,猫 --template {{}}"),
    (
        f"{CLASSIFY} --classes 狗,猫",
        "give templates of their language",
        f"{CLASSIFY} --classes 狗,猫 --template 一张{{}}的照片",
    ),
    (f"{ASK} --answers yes,no", "'a dog,an empty room'", f"{ASK} --answers 'a dog,an empty room'"),
    (f"{ASK} --answers red", "give several: --answers red,blue", f"{ASK} --answers red,blue"),
    (
        "answer 0.png --question 'the colour' --answers red,blue",
        "such as: 'the car is {}'",
        "answer 0.png --question 'the car is {}' --answers red,blue",
    ),
    (
        "caption 0.png --corpus words.txt --data images",
        "give one of them",
        "caption 0.png --corpus words.txt",
    ),
    ("caption 0.png", "give --corpus or --data", "caption 0.png --data images"),
    (
        "caption 0.png --data classes",
        "give sentences by --corpus or",
        "caption 0.png --corpus words.txt",
    ),
    (COMPARE, "give --data, or --images with --classes", f"{COMPARE} --data images"),
    (COMPARE, "or --images with --classes", f"{COMPARE} --images 0.png --classes dog,cat"),
    ("compare saved saved --data images", "each once", f"{COMPARE} --data images"),
    (f"{COMPARE} --images 0.png", "give both", f"{COMPARE} --images 0.png --classes dog,cat"),
    pytest.param(
        f"{COMPARE} --data images --plot NEW.png",
        "give --images and --classes",
        f"{COMPARE} --data images --plot NEW.png --images 0.png --classes dog,cat",
        marks=pytest.mark.nightly,
    ),
    ("evaluate", "so without data; give --data", "evaluate --data images"),
    (
        "evaluate --data images --split dev",
        "choose one by --split",
        "evaluate --data images --split val",
    ),
    ("evaluate --data ''", "--data: is empty; give a value", "evaluate --data run.json"),
    (
        "evaluate --data ' '",
        "give a spec, a folder, or type",
        "evaluate -d type=image-folder,folder=images",
    ),
    (
        "evaluate --data images/0.png",
        "give the folder that it is in",
        "evaluate --data images",
    ),
    ("evaluate --data model.json", "put it below model:, add data:", "evaluate --data run.json"),
    (
        "evaluate --data images --model ''",
        "--model: is empty; give a value",
        "evaluate -d images -m saved",
    ),
    ("evaluate -d images -m saved -m other", "times; give it once", "evaluate -d images -m saved"),
    (
        "evaluate other --data images",
        "is given by --model other",
        "evaluate -d images --model other",
    ),
    (
        "validate training.lr=1 run.json",
        "give the spec before it",
        "validate run.json training.lr=1",
    ),
    ("validate run.json lr 1", "write it as a.b=value", "validate run.json training.lr=1"),
    ("validate run.json --memory --upgrade", "give one at a time", "validate run.json"),
    ("validate saved --memory", "give a run, or its spec", "validate run.json --memory"),
    ("validate saved a.b=1", "leave the override out", "validate saved"),
    ("validate run.json -o NEW.yaml", "leave it out", "validate run.json"),
    ("search 'a dog' --data images --images shots", "not both", "search 'a dog' --images shots"),
    (
        "search 'a dog'",
        "give --data, --images, --texts or --index",
        "search 'a dog' --images shots",
    ),
    (
        "search 'a dog' --texts words.txt",
        "(--find text)",
        "search 'a dog' --texts words.txt --find text",
    ),
    (
        "search 0.png --data type=class-folders,folder=classes",
        "or texts (texts=, --texts)",
        "search 0.png --texts words.txt",
    ),
    (
        "search 0.png --data type=class-folders,folder=classes",
        "give other data",
        "search 0.png --data images",
    ),
    pytest.param(
        f"{PROBE} --shots 1,x", "write 1,2,4", f"{PROBE} --shots 1,2,4", marks=pytest.mark.nightly
    ),
    (f"{PROBE} --train-split dev", "choose one by --train-split", f"{PROBE} --train-split train"),
    pytest.param(
        f"{PROBE} --plot NEW.png",
        "give --shots 1,2,4,8,16",
        f"{PROBE} --plot NEW.png --shots 1,2,4,8,16",
        marks=pytest.mark.nightly,
    ),
    (
        f"{NEW} resnet --kind encoder -o NEW",
        "choose another name",
        f"{NEW} a-net --kind encoder -o NEW",
    ),
    (
        f"{NEW} A_Net --kind encoder -o NEW",
        "write lower-case letters, digits and single hyphens",
        f"{NEW} a-net --kind encoder -o NEW",
    ),
    (
        f"{NEW} a-net --kind encoder --modality Audio -o NEW",
        "write it in lower case, such as image, text or audio",
        f"{NEW} a-net --kind encoder --modality audio -o NEW",
    ),
    (
        f"{NEW} a-net --kind head --modality image -o NEW",
        "only an encoder has one; leave it out",
        f"{NEW} a-net --kind head -o NEW",
    ),
    (
        f"{NEW} a-net --kind loss -o images",
        "choose another with --output",
        f"{NEW} a-net --kind loss --output NEW",
    ),
    (f"{INIT} - --with-data", "give a file, or leave out", f"{INIT} -"),
    (f"{INIT} - --json", "give a file, or leave out", f"{INIT} NEW/clip.yaml --json"),
    (f"{INIT} classes", "give a file, such as classes/clip.yaml", f"{INIT} classes/clip.yaml"),
    (f"{INIT} words.txt", "or give another --output", f"{INIT} NEW/clip.yaml"),
    (f"{INIT} words.txt/clip.yaml", "give --output in another folder", f"{INIT} NEW/clip.yaml"),
]


@pytest.fixture(scope="module")
def ended():
    """Return how commands ended that several tests type."""
    return {}


@pytest.mark.parametrize(("wrong", "said", "right"), LINES)
def test_what_is_told_is_typed_next(here, command, tmp_path, ended, wrong, said, right):
    wrong, right = (line.replace("NEW", str(tmp_path / "new")) for line in (wrong, right))
    told = command(*shlex.split(wrong)).err
    assert said in told, told
    assert "Traceback" not in told
    if right not in ended:
        ended[right] = command(*shlex.split(right))
    assert ended[right].code == 0, ended[right].err
    assert said not in ended[right].err
