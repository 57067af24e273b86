"""Layouts in which people have images and captions, each loaded by the lines that docs/data.md has
for it; and one line for those that are not read.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from contrastive.cli.context import named_data
from contrastive.data.samples import rows_of
from contrastive.datasets import ClassFolders, Dataset, ImageFolder, Table, WebDataset
from contrastive.datasets.bare_folder import dataset_in
from contrastive.errors import DataError, SpecError
from tests.shards import write_shards

DOCS = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
SPLITS = ("train", "val", "test")
NAMES = [f"{number:04}.jpg" for number in range(24)]
SPLIT_OF = dict(zip(NAMES, SPLITS * 8, strict=True))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def captions(name):
    return [f'A "dog" named {name}, running', f"{name}: Männer am Meer"]


def draw(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (int(path.stem[-3:]) * 9, 80, 80)).save(path)


def write(path, text):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def delimited(rows, delimiter=","):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def token(name):
    return "".join(f"{name}#{i}\t{text}\n" for i, text in enumerate(captions(name)))


def karpathy(*, coco=False):
    return json.dumps(
        {
            "images": [
                {
                    "filename": name,
                    "split": SPLIT_OF[name],
                    "sentences": [{"raw": text} for text in captions(name)],
                }
                | ({"filepath": "val2014" if i % 3 else "train2014"} if coco else {})
                for i, name in enumerate(NAMES)
            ]
        }
    )


def flickr8k():
    """Write the two archives as they come; the row of a picture that is not there is known."""
    draw(*(f"flickr8k/Flicker8k_Dataset/{name}" for name in NAMES))
    lost = "0001.jpg.1#0\tA dog\n"
    write("flickr8k/Flickr8k.token.txt", lost + "".join(map(token, NAMES)))
    for split, called in zip(SPLITS, ("train", "dev", "test"), strict=True):
        members = "".join(f"{name}\n" for name in NAMES if SPLIT_OF[name] == split)
        write(f"flickr8k/Flickr_8k.{called}Images.txt", members)


def flickr8k_karpathy():
    draw(*(f"flickr8k/Flicker8k_Dataset/{name}" for name in NAMES))
    write("flickr8k/dataset_flickr8k.json", karpathy())


def flickr8k_kaggle():
    draw(*(f"flickr8k/Images/{name}" for name in NAMES))
    rows = [(name, text) for name in NAMES for text in captions(name)]
    write("flickr8k/captions.txt", delimited([("image", "caption"), *rows]))


def flickr30k_kaggle():
    draw(*(f"flickr30k/flickr30k_images/flickr30k_images/{name}" for name in NAMES))
    rows = [f"{n}| {i}| {text}\n" for n in NAMES for i, text in enumerate(captions(n))]
    header = "image_name| comment_number| comment\n"
    write("flickr30k/flickr30k_images/results.csv", header + "".join(rows))


def coco():
    """Write ``captions_train2017.json`` and that of val, of which COCO has no test."""
    for split in ("train", "val"):
        names = [name for name in NAMES if (SPLIT_OF[name] == "val") == (split == "val")]
        draw(*(f"coco/{split}2017/{name}" for name in names))
        document = {
            "info": {"year": 2017},
            "images": [{"id": int(name[:4]), "file_name": name} for name in names],
            "annotations": [
                {"id": i, "image_id": int(name[:4]), "caption": text}
                for i in range(2)
                for name in names
                for text in [captions(name)[i]]
            ],
        }
        write(f"coco/annotations/captions_{split}2017.json", json.dumps(document))


def coco_karpathy():
    draw(*(f"coco/{'val2014' if i % 3 else 'train2014'}/{n}" for i, n in enumerate(NAMES)))
    write("coco/dataset_coco.json", karpathy(coco=True))


def conceptual():
    draw(*(f"cc3m/images/{name}" for name in NAMES))
    rows = [(text, f"images/{name}") for name in NAMES for text in captions(name)]
    write("cc3m/train.tsv", delimited(rows, "\t"))


def img2dataset():
    for i, name in enumerate(NAMES):
        stem = f"laion/{i // 10:05}/{name[:4]}"
        draw(f"{stem}.jpg")
        write(f"{stem}.txt", "\n".join(captions(name)))
        write(f"{stem}.json", json.dumps({"caption": captions(name)[0], "status": "success"}))
    write("laion/00000_stats.json", "{}")
    write("laion/00000.parquet", b"PAR1")


def open_clip():
    """Write what open_clip trains on: paths from anywhere, absolute, separated by tabs."""
    draw(*(f"photos/{name}" for name in NAMES))
    for split in SPLITS:
        rows = [
            (Path("photos", name).absolute(), text)
            for name in NAMES
            for text in captions(name)
            if SPLIT_OF[name] == split
        ]
        write(f"photos/{split}.csv", delimited([("filepath", "title"), *rows], "\t"))


def json_array():
    draw(*(f"llava/images/{name}" for name in NAMES))
    rows = [
        {"id": name[:4], "image": name, "caption": text, "blip_caption": "?"}
        for name in NAMES
        for text in captions(name)
    ]
    write("llava/metadata.json", json.dumps(rows))


def hub_rows():
    for name in NAMES:
        draw(f"hub/{SPLIT_OF[name]}/{name}")
    return {
        split: [(n, text) for n in NAMES for text in captions(n) if SPLIT_OF[n] == split]
        for split in SPLITS
    }


def hub_csv():
    for split, rows in hub_rows().items():
        write(f"hub/{split}/metadata.csv", delimited([("file_name", "text"), *rows]))


def hub_jsonl():
    for split, rows in hub_rows().items():
        lines = (json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows)
        write(f"hub/{split}/metadata.jsonl", "".join(lines))


def hub_parquet():
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for split, rows in hub_rows().items():
        names, texts = map(list, zip(*rows, strict=True))
        table = arrow.table({"file_name": names, "text": texts, "thumbnail": [b"x"] * len(names)})
        parquet.write_table(table, f"hub/{split}/metadata.parquet")


def compressed():
    draw(*(f"photos/{name}" for name in NAMES))
    rows = [(name, text) for name in NAMES for text in captions(name)]
    text = delimited([("image", "caption"), *rows])
    write("photos/captions.csv.gz", gzip.compress(text.encode()))


def compressed_lines():
    draw(*(f"photos/{name}" for name in NAMES))
    lines = (json.dumps({"image": name, "text": captions(name)}) + "\n" for name in NAMES)
    write("photos/captions.jsonl.gz", gzip.compress("".join(lines).encode()))


def lists_in_cells(dumps=json.dumps):
    draw(*(f"photos/{name}" for name in NAMES))
    rows = [(name, dumps(captions(name))) for name in NAMES]
    write("photos/captions.csv", delimited([("image", "caption"), *rows]))


def lists_of_pandas():
    lists_in_cells(repr)


LAYOUTS = {
    flickr8k: "Flickr8k, the original archives",
    flickr8k_karpathy: "Flickr8k with Karpathy's",
    flickr8k_kaggle: "Flickr8k from Kaggle",
    flickr30k_kaggle: "Flickr30k from Kaggle without",
    coco: "COCO 2017",
    coco_karpathy: "COCO 2014 with Karpathy's",
    conceptual: "CC3M, CC12M",
    img2dataset: "img2dataset",
    open_clip: "open_clip",
    json_array: "LLaVA",
    hub_csv: "a folder for the Hugging Face hub",
    hub_jsonl: "a folder for the Hugging Face hub",
    hub_parquet: "a folder for the Hugging Face hub",
    compressed: "compressed",
    compressed_lines: "compressed",
    lists_in_cells: "several captions in a cell",
    lists_of_pandas: "several captions in a cell",
}


def fields_in_docs(layout):
    """Return the fields of the spec that the documentation has for a layout."""
    (line,) = [line for line in DOCS.splitlines() if line.startswith(f"| {layout}")]
    spec = line.split("`")[-2]
    found = dict(pair.split(": ", 1) for pair in spec[1:-1].split(", "))
    return {
        name: ast.literal_eval(value) if value[0] in '"0123456789' else value
        for name, value in found.items()
    }


@pytest.mark.parametrize("write_layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_layout_is_read_by_the_lines_of_the_documentation(write_layout, here):
    write_layout()
    data = Dataset.choose(fields_in_docs(LAYOUTS[write_layout]) | {"max_bad": 0})
    splits = ["train", "val"] if write_layout is coco else SPLITS
    built = {split: rows_of(data.build(split)) for split in splits}
    found = [row for rows in built.values() for row in rows]
    assert sorted((row["image"].name, row["text"]) for row in found) == sorted(
        (name, text) for name in NAMES for text in captions(name)
    )
    assert len({(row["image"], row["id"]) for row in found}) == len(NAMES), "an id an image"
    assert all(row["image"].is_file() and row["source"] for row in found)
    said = {name: split for split, rows in built.items() for name in names_in(rows)}
    assert all(len(rows) < len(found) for rows in built.values())
    if write_layout not in (*HASHED, coco):
        assert said == SPLIT_OF


HASHED = (
    *(flickr8k_kaggle, flickr30k_kaggle, conceptual, img2dataset, json_array),
    *(compressed, compressed_lines, lists_in_cells, lists_of_pandas),
)


def names_in(rows):
    return {row["image"].name for row in rows}


@pytest.mark.parametrize(
    ("write_layout", "folder"),
    [
        (flickr8k, "flickr8k"),
        (flickr8k_kaggle, "flickr8k"),
        (img2dataset, "laion"),
        (json_array, "llava"),
        (hub_jsonl, "hub"),
        (compressed, "photos"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bare_folder_is_known(write_layout, folder, here):
    write_layout()
    data = dataset_in(Path(folder))
    assert len(names_in(rows_of(data.build("train+val+test")))) == len(NAMES)


def test_restval_of_karpathys_coco_is_a_split_that_can_be_joined(here):
    draw("coco/val2014/0000.jpg", "coco/val2014/0001.jpg")
    images = [
        {"filename": n, "filepath": "val2014", "split": s, "sentences": [{"raw": "a"}]}
        for n, s in [("0000.jpg", "train"), ("0001.jpg", "restval")]
    ]
    write("coco/dataset_coco.json", json.dumps({"images": images}))
    data = ImageFolder(folder="coco", captions="dataset_coco.json")
    assert len(rows_of(data.build("train"))) == 1
    assert len(rows_of(data.build("train+restval"))) == 2


def test_what_is_guessed_is_told(here, capsys):
    conceptual()
    ImageFolder(folder="cc3m", captions="train.tsv").build("train")
    assert "train.tsv: has no header; its columns are taken for captions and images\n" in (
        capsys.readouterr().err
    )
    img2dataset()
    ImageFolder(folder="laion").build("train")
    assert "laion: the captions are those of the .txt beside each image\n" in (
        capsys.readouterr().err
    )
    flickr30k_kaggle()
    Dataset.choose({"type": "flickr30k", "folder": "flickr30k", "holdout": 0.2}).build("train")
    assert "a hash decides on the splits; Karpathy's, to compare: https://cs.stanford.edu/" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("notes", [["cat/0000.txt"], [".cache/0000.txt"], ["__MACOSX/0000.txt"]])
def test_a_note_or_a_hidden_text_makes_no_captions(notes, here):
    draw("photos/.cache/0000.jpg", "photos/__MACOSX/0000.jpg")
    draw(*(f"photos/cat/{name}" for name in NAMES))
    for note in notes:
        write(f"photos/{note}", "seen on Monday")
    assert isinstance(dataset_in(Path("photos")), ClassFolders)


def test_images_beside_the_folders_of_splits_are_told_of(here, capsys):
    for place in ("Train/0000", "test/0001", "more/0002"):
        draw(f"photos/{place}.jpg")
        write(f"photos/{place}.txt", "a dog")
    assert len(ImageFolder(folder="photos").build("train")) == 1
    assert "photos: more/0002.jpg: beside the folders of splits, left out\n" in (
        capsys.readouterr().err
    )


def test_an_image_without_its_text_file_is_a_bad_row(here):
    img2dataset()
    Path("laion/00000/0003.txt").unlink()
    samples = ImageFolder(folder="laion", max_bad=0.5, holdout=0).build("train")
    (line,) = samples.bad_rows.lines
    assert line == "00000/0003.jpg: there is no 0003.txt beside it"
    with_table = ImageFolder(folder="laion", captions="*.txt", holdout=0, max_bad=0.5)
    write("laion/captions.csv", "image,text\nx.jpg,a\n")
    assert len(with_table.build("train")) == len(samples)


URL = "ftp://example.org/1.jpg"
BAD_JSON = "JSON is read as an array of objects, a line each, or in the forms of pandas, of COCO's "
WRONG = {
    "addresses, no header": ("c.tsv", f"a dog\t{URL}\n", "c.tsv:1: its image is a URL, of which"),
    "addresses": (
        "c.csv",
        f"image,text\n{URL},a dog\n",
        "c.csv:2: its image is a URL, of which",
    ),
    "of a bucket": (
        "c.csv",
        "image,text\nS3://b/1.jpg,a dog\n",
        "c.csv:2: its image is a URL",
    ),
    "another document": ("c.json", '{"a": 1}', "c.json:1: is no table; " + BAD_JSON),
    "instances": (
        "c.json",
        '{"images": [], "annotations": [{"bbox": []}]}',
        "c.json: its annotations have no captions; take captions_*.json of COCO",
    ),
    "conversations": (
        "c.json",
        '[{"image": "0000.jpg", "conversations": []}]',
        "c.json: row 1: 'conversations' is empty or not a text",
    ),
    "no gzip": ("c.csv.gz", "image,text\n", "c.csv.gz: not readable gzip: Not a gzipped file"),
    "cut gzip": (
        "c.csv.gz",
        gzip.compress(b"image,text\n" * 99)[:-9],
        "c.csv.gz: not readable gzi",
    ),
    "no Parquet": ("c.parquet", "image,text\n", "c.parquet: not readable Parquet: "),
}


def test_absolute_paths_need_a_folder_that_holds_them(here):
    open_clip()
    Path("else").mkdir()
    table = Path("photos/{split}.csv").absolute()
    with pytest.raises(DataError, match="is outside the folder"):
        ImageFolder(folder="else", captions=table).build("train")
    assert len(ImageFolder(folder="/", captions=table).build("train")) == 16


def test_one_address_is_a_bad_row_among_others(here):
    draw("data/0000.jpg")
    write("data/captions.csv", f"image,text\n0000.jpg,a dog\n{URL},a cat\n")
    samples = ImageFolder(folder="data", holdout=0).build("train")
    assert len(samples) == 1
    assert samples.bad_rows.lines[0].startswith("captions.csv:3: its image is a URL, of which")


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_read_is_one_line(kind, here):
    name, content, said = WRONG[kind]
    draw("data/0000.jpg")
    write(f"data/{name}", content)
    with pytest.raises(DataError) as error:
        ImageFolder(folder="data", captions=name).build("train")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_no_table_of_any_split_says_where_it_was_looked_for(here):
    draw("data/0000.jpg")
    with pytest.raises(DataError, match=r"data: no captions; looked for train\.csv, val\.csv"):
        ImageFolder(folder="data", captions="{split}.csv").build("train")


def test_a_table_of_another_name_is_told_of_with_what_to_set(here):
    coco()
    with pytest.raises(DataError) as error:
        dataset_in(Path("coco"))
    assert str(error.value) == (
        "coco: annotations/captions_{split}2017.json may have its captions; to read them, give "
        "'type=image-folder,folder=coco,captions=annotations/captions_{split}2017.json,"
        'images="{split}2017"\'; for images alone, type=class-folders,folder=coco'
    )
    with pytest.raises(DataError) as error:
        ImageFolder(folder="coco").build("train")
    told = 'captions: "annotations/captions_{split}2017.json", images: "{split}2017"'
    assert str(error.value).endswith(f"take type: image-folder, {told}")
    both = dict(re.findall(r'(\w+): "(.*?)"', told))
    assert len(ImageFolder(folder="coco", **both).build("train")) > 0
    data = ImageFolder(folder="coco", captions="annotations/captions_{split}2017.json")
    with pytest.raises(DataError) as error:
        data.build("train")
    assert str(error.value) == (
        "captions_train2017.json: row 1: image '0000.jpg' is not in coco, nor is any other of "
        "split 'train'; set images to their folder"
    )


def test_shards_are_taken_or_told_of(here):
    write_shards(Path("laion"), 2, 5)
    assert len(dataset_in(Path("laion")).build("train+val+test")) == 10
    with pytest.raises(DataError, match=r"type: webdataset reads \.tar shards, .* as shards$"):
        ImageFolder(folder="laion").build("train")


def test_data_are_taken_by_the_end_of_a_name_a_pattern_or_an_address(here):
    write_shards(Path("laion"), 2, 5)
    for given in ("laion/00000.tar", "laion/*.tar", "s3://b/{0..9}.tar"):
        assert named_data(given) == WebDataset(shards=given)
    assert named_data("t/*.parquet") == Table(files="t/*.parquet")
    with pytest.raises(SpecError, match="only local files are read"):
        named_data("s3://b/t.parquet")


def test_flickr30k_without_splits_names_the_ways_on(here):
    flickr30k_kaggle()
    with pytest.raises(DataError, match="does not say the splits") as error:
        Dataset.choose({"type": "flickr30k", "folder": "flickr30k"}).build("train")
    assert "dataset_flickr30k.json" in str(error.value)
    assert "caption_datasets.zip" in str(error.value)
    assert "holdout" in str(error.value)


def test_json_lines_are_told_from_a_document_by_content(here):
    draw("data/0000.jpg", "data/0001.jpg")
    rows = [{"image": name, "text": "a dog"} for name in NAMES[:2]]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    for name, text in {"c.json": lines, "c.jsonl": json.dumps(rows, indent=1)}.items():
        write(f"data/{name}", text)
        assert len(ImageFolder(folder="data", captions=name, holdout=0).build("train")) == 2


def test_flickr8k_without_its_lists_is_told_their_names(here):
    flickr8k()
    for path in Path("flickr8k").glob("Flickr_8k.*Images.txt"):
        path.unlink()
    data = Dataset.choose({"type": "flickr30k", "folder": "flickr8k"})
    with pytest.raises(DataError, match=r"or Flickr_8k\.trainImages\.txt, Flickr_8k\.devImages"):
        data.build("train", purpose="train")
