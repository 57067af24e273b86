"""Tables that are not read as they are: what is told is carried out, and then they are read."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from contrastive.data.samples import check_modalities
from contrastive.datasets import ImageFolder, Lines, Table
from contrastive.datasets.bare_folder import dataset_in
from contrastive.errors import DataError

FRENCH = [f"{what} {i} a été vu à l'été" for i, what in enumerate(["l'âne", "la bête", "le chat"])]
CHINESE = [f"一只{what}在草地上跑{i}" for i, what in enumerate(["狗", "猫", "马"])]
RUSSIAN = [f"{what} бежит по зелёной траве {i}" for i, what in enumerate(["пёс", "кот", "конь"])]
JAPANESE = [f"草原を走る{what}の写真{i}" for i, what in enumerate(["犬", "ネコ", "うま"])]
NAMES = ("0.png", "1.png", "2.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        Image.new("RGB", (4, 4)).save(name)
    return tmp_path


def csv(texts=FRENCH):
    return "\n".join(["image,text", *map(",".join, zip(NAMES, texts, strict=True))])


def read(**fields):
    data = ImageFolder(**{"folder": ".", "holdout": 0, "max_bad": 0} | fields).build("train")
    return [(row["image"].name, row["text"]) for row in data]


def told(**fields):
    with pytest.raises(DataError) as error:
        read(**fields)
    assert "\n" not in str(error.value)
    return str(error.value)


needs_shell = pytest.mark.skipif(not shutil.which("iconv"), reason="needs iconv")


def in_shell(command):
    subprocess.run(command, shell=True, check=True)


@needs_shell
@pytest.mark.parametrize("form", ["captions.csv", "captions.jsonl", "captions.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "texts"),
    [
        ("latin-1", FRENCH),
        ("cp1252", [f"“{text}”" for text in FRENCH]),
        ("gbk", CHINESE),
        ("cp1251", RUSSIAN),
        ("utf-16-le", FRENCH),
        ("utf-16-be", FRENCH),
        ("utf-32-le", FRENCH),
    ],
)
def test_a_table_in_another_encoding_is_converted_as_is_told(folder, encoding, texts, form):
    lines = (f'{{"image": "{n}", "text": "{t}"}}' for n, t in zip(NAMES, texts, strict=True))
    content = ("\n".join(lines) if "jsonl" in form else csv(texts)).encode(encoding)
    (folder / form).write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    message = told()
    assert message.startswith(f"{form}:")
    in_shell(message.partition("write it in UTF-8: ")[2].removesuffix(OTHERWISE))
    assert read() == list(zip(NAMES, texts, strict=True))
    assert (folder / f"{form}.orig").read_bytes() == content


OTHERWISE = " (or with the encoding that wrote it)"


@needs_shell
def test_an_encoding_that_is_guessed_wrong_is_put_right(folder):
    (folder / "captions.csv").write_bytes(csv(JAPANESE).encode("euc-jp"))
    command = told().partition("write it in UTF-8: ")[2]
    assert command.endswith(OTHERWISE)
    in_shell(re.sub(r"-f \S+", "-f EUC-JP", command.removesuffix(OTHERWISE)))
    assert read() == list(zip(NAMES, JAPANESE, strict=True))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("texts", [FRENCH, CHINESE])
def test_a_file_that_names_its_encoding_is_read(folder, encoding, texts):
    (folder / "captions.csv").write_bytes(csv(texts).encode(encoding))
    assert read() == list(zip(NAMES, texts, strict=True))
    (folder / "lines.txt").write_bytes("\n".join(texts).encode(encoding))
    assert [row["text"] for row in Lines(file="lines.txt", holdout=0).build("train")] == texts


def test_a_file_that_is_cut_in_a_letter_is_one_line(folder):
    (folder / "captions.csv").write_bytes(csv().encode("utf-16")[:-1])
    assert told() == ("captions.csv:1: not valid UTF-16: truncated data; was it copied completely?")


def test_one_damaged_line_is_that_line_s_fault(folder):
    content = csv(["a dog", "caf?", "a cat"]).encode().replace(b"?", b"\xe9")
    (folder / "captions.csv").write_bytes(content)
    problem = "captions.csv:3: the caption is not valid UTF-8; save the file as UTF-8"
    assert told().endswith(problem)
    assert len(read(max_bad=0.5)) == 2


def test_gzip_is_known_by_its_content(folder):
    (folder / "captions.csv").write_bytes(gzip.compress(csv().encode()))
    assert len(read()) == 3


OTHERS = {
    "captions.xlsx": ("to_excel", "openpyxl"),
    "captions.orc": ("to_orc", "pyarrow"),
    "captions.csv.zip": ("to_csv", ""),
    "captions.csv.bz2": ("to_csv", ""),
    "captions.csv.xz": ("to_csv", ""),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_table_of_another_program_is_written_as_csv_as_is_told(folder, name):
    pandas = pytest.importorskip("pandas")
    writer, library = OTHERS[name]
    if library:
        pytest.importorskip(library)
    frame = pandas.DataFrame({"image": NAMES, "text": FRENCH})
    getattr(frame, writer)(name, **{} if writer in ("to_feather", "to_orc") else {"index": False})
    with pytest.raises(DataError) as error:
        dataset_in(folder)
    for said in (str(error.value), told(captions=name)):
        exec(re.search(r"in Python \(pip install [\w ]+\): (.*)", said)[1])
    assert read() == list(zip(NAMES, FRENCH, strict=True))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"PK\x03\x04", "is no text but a zip archive, or Excel; unpack it, or save the sheet as"),
        (b"\xd0\xcf\x11\xe0", "is no text but of Excel; save the sheet as CSV in UTF-8"),
        (b"BZh9", "is no text but compressed by bzip2; decompress it: cp captions.csv"),
    ],
)
def test_what_another_program_wrote_is_known_by_its_content(folder, start, said):
    (folder / "captions.csv").write_bytes(start + bytes(99))
    assert f"captions.csv: {said}" in told()


def test_parquet_of_another_name_is_read_once_it_is_renamed(folder):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"image": NAMES, "text": FRENCH}).to_parquet("captions.csv")
    assert told() == "captions.csv: is no text but Parquet; end its name with .parquet"
    (folder / "captions.csv").rename("captions.parquet")
    assert len(read()) == 3


@pytest.mark.parametrize("form", ["the hub's", "bytes"])
def test_images_in_parquet_are_read_by_the_type_that_is_told(folder, form):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    images = []
    for value in (0, 99, 255):
        Image.new("RGB", (4, 4), (value,) * 3).save("x.png")
        images.append((folder / "x.png").read_bytes())
    for path in folder.glob("*.png"):
        path.unlink()
    held = [{"bytes": x, "path": None} for x in images] if form == "the hub's" else images
    frame = pandas.DataFrame({"image": held, "text": FRENCH, "split": ["train", "train", "val"]})
    (folder / "data").mkdir()
    frame.to_parquet("data/train-0000.parquet")
    message = told(folder="data", captions="train-0000.parquet")
    said = "data/train-0000.parquet: 'image' holds the images themselves; take type: table, files: "
    assert message.startswith(said)
    data = Table(files=message.removeprefix(said)).build("train+val")
    assert [row["text"] for row in data] == FRENCH
    assert [row["image"].read() for row in data] == images
    assert dataset_in(Path("data")) == Table(files="data")


def test_a_table_without_a_header_is_given_one_as_is_told(folder):
    rows = [f"{name},{text},train" for name, text in zip(NAMES, FRENCH, strict=True)]
    (folder / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    header = told().rpartition(" such as ")[2]
    (folder / "captions.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    assert read() == list(zip(NAMES, FRENCH, strict=True))


def test_names_and_captions_with_a_space_between_them_are_separated_as_is_told(folder):
    rows = [f"{name} {text}" for name, text in zip(NAMES, FRENCH, strict=True)]
    (folder / "captions.txt").write_text("\n".join(rows), encoding="utf-8")
    assert told().endswith("put a tab between the image and its caption")
    (folder / "captions.txt").write_text(
        "\n".join(row.replace(" ", "\t", 1) for row in rows), encoding="utf-8"
    )
    assert read() == list(zip(NAMES, FRENCH, strict=True))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_a_table_whose_images_are_addresses_of_another_name_says_how_to_name_their_column(end):
    rows = [{"link": f"https://example.org/{i}.png", "text": f"number {i}"} for i in range(2)]
    if end == "csv":
        lines = "\n".join(f"{row['link']},{row['text']}" for row in rows)
        Path("web.csv").write_text(f"link,text\n{lines}")
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), "web.parquet")
    with pytest.raises(DataError) as told:
        check_modalities(Table(files=f"web.{end}", holdout=0).build("train"), ["image", "text"])
    found = re.search(
        r"give type=table,files=(\S+),image_column=COLUMN, or (\w+)=", str(told.value)
    )
    named = Table(**{"files": found[1], found[2]: "link", "holdout": 0})
    check_modalities(named.build("train"), ["image", "text"])
