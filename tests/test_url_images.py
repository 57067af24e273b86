"""Images by address, from a real server: fetched once, from public addresses alone, told if not."""

import json
import os
import threading
from multiprocessing.reduction import ForkingPickler

import pytest

from contrastive import RunSpec, shard_data, train
from contrastive.config.yaml_files import load_spec
from contrastive.data import content_index, url_images
from contrastive.data.columns import values_of
from contrastive.data.content_hash import short_keys
from contrastive.data.images import open_image
from contrastive.data.loading import map_in_workers
from contrastive.data.storage import guarded_http
from contrastive.data.url_images import UrlImage, UrlImages
from contrastive.datasets import ImageFolder, Table
from contrastive.errors import BadSample, DataError, SpecError
from tests.toys import tiny_model
from tests.web_server import Server, answer, image, png, read, refusal


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(guarded_http, "RETRY_AFTER", (0.0, 0.0))
    url_images._failed.clear()
    server = Server()
    yield server
    server.stop()


def table(folder, server, names, *, column="url"):
    folder.mkdir(exist_ok=True)
    rows = [f"{server.at}/{name},number {i},{('train', 'val')[i % 4 == 3]}" for i, name in names]
    (folder / "captions.csv").write_text("\n".join([f"{column},text,split", *rows]))


def test_an_image_is_fetched_once(server):
    assert open_image(UrlImage(f"{server.at}/7.png", private=True)).getpixel((0, 0))[0] == 7
    assert read(server, "/7.png") == png(7)
    assert server.requests == {"/7.png": 1}


def test_a_copy_of_a_private_image_is_for_those_who_may_ask_for_it(server):
    read(server, "/7.png")
    with pytest.raises(BadSample, match="private: true"):
        UrlImage(f"{server.at}/7.png").read()


@pytest.mark.parametrize("column", ["url", "IMAGE_URL", "image", "photo"])
def test_a_table_of_addresses_is_fetched_when_images_are_needed_and_then_no_more(
    server, tmp_path, column, capsys
):
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in range(8)], column=column)
    fields = {"url_column": "photo"} if column == "photo" else {}
    data = ImageFolder(folder=tmp_path / "web", private=True, **fields)
    rows = data.build("train")
    assert not server.requests
    assert (
        "images by address, 8, are fetched when needed; copies are kept" in capsys.readouterr().err
    )
    assert isinstance(rows[0]["image"], UrlImage)
    first = short_keys(values_of(rows, "image"), "image")
    assert len({*first.tolist()}) == 6
    assert sum(server.requests.values()) == 6
    content_index._index_in.cache_clear()  # as another process would
    again = short_keys(values_of(data.build("train"), "image"), "image")
    assert again.tolist() == first.tolist()
    assert sum(server.requests.values()) == 6
    column = rows.columns["image"].values
    assert isinstance(column, UrlImages)
    assert ForkingPickler.loads(ForkingPickler.dumps(rows)) == rows


def test_files_and_addresses_may_stand_in_one_column(server, tmp_path):
    table(tmp_path / "web", server, [(0, "1.png")], column="image")
    (tmp_path / "web" / "2.png").write_bytes(png(2))
    with (tmp_path / "web" / "captions.csv").open("a") as file:
        file.write("\n2.png,a file,train\ngone.png,no file,train")
    data = ImageFolder(folder=tmp_path / "web", private=True, max_bad=0.5)
    shades = [open_image(row["image"]).getpixel((0, 0))[0] for row in data.build("train")]
    assert shades == [1, 2]
    content = ImageFolder(folder=tmp_path / "web", private=True, max_bad=0.5, group_by="content")
    assert len(content.build("train")) == 2


def test_a_run_leaves_out_what_cannot_be_fetched_within_its_budget(server, tmp_path, capsys):
    server.answers["/3.png"] = lambda request, _: answer(request, 404)
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in range(0, 40) if i % 4 != 3 or i == 3])
    (tmp_path / "web" / "captions.csv").write_text(
        (tmp_path / "web" / "captions.csv").read_text().replace(",val", ",train")
    )
    data = {"type": "image-folder", "folder": str(tmp_path / "web"), "private": True}
    run = {
        "model": tiny_model("infonce"),
        "data": data | {"max_bad": 0.1},
        "training": {"batch_size": 8, "epochs": 2, "workers": 0},
        "evaluation": {"split": None},
    }
    train(run, tmp_path / "run")
    line = f"{server.at}/3.png: the server answers 404 Not Found"
    assert line in capsys.readouterr().err
    assert len([*(tmp_path / "run").glob("model")]) == 1
    assert max(server.requests.values()) == 1  # not again in the second epoch, nor by workers
    with pytest.raises(DataError, match="1 of 31 samples are bad, 0 may be"):
        train(run | {"data": data | {"max_bad": 0}}, tmp_path / "strict")
    losses = [
        json.loads(line).get("loss")
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert len([loss for loss in losses if loss]) == 6


def test_shards_of_images_by_address_hold_the_images(server, tmp_path):
    table(tmp_path / "web", server, [(0, "1.png"), (1, "2.png")])
    written = shard_data(ImageFolder(folder=tmp_path / "web", private=True), tmp_path / "shards")
    assert written["splits"]["train"]["samples"] == 2
    assert png(2) in (tmp_path / "shards" / "train-000000.tar").read_bytes()


def test_images_are_fetched_several_at_a_time(server, tmp_path):
    both = threading.Barrier(2)

    def together(request, number):
        both.wait(timeout=20)
        image(request, number)

    server.answers |= {f"/{i}.png": together for i in range(4)}
    table(tmp_path / "web", server, [(0, "0.png"), (1, "1.png")])
    data = ImageFolder(folder=tmp_path / "web", private=True)
    short_keys(values_of(data.build("train"), "image"), "image")
    table(tmp_path / "web", server, [(0, "2.png"), (1, "3.png")])
    shard_data(data, tmp_path / "shards")
    assert sum(server.requests.values()) == 4


class Reading:
    def __init__(self, images):
        self.images = images

    def __getitem__(self, group):
        return [hash(self.images[i].read()) and os.getpid() for i in group]


def test_workers_fetch_what_they_need_into_the_cache_of_all(server, tmp_path):
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in (0, 1, 2)])
    rows = ImageFolder(folder=tmp_path / "web", private=True).build("train")
    found = [*map_in_workers(Reading(values_of(rows, "image")), [[0], [1, 2], [0]], workers=1)]
    assert os.getpid() not in {pid for pids in found for pid in pids}
    assert sum(server.requests.values()) == 3
    assert rows[2]["image"].read() == png(2)
    assert sum(server.requests.values()) == 3


def test_a_table_of_any_size_may_have_addresses(server, tmp_path, capsys):
    table(tmp_path / "web", server, [(i, f"{i}.png") for i in range(4)])
    (tmp_path / "web" / "captions.csv").rename(tmp_path / "web" / "t.csv")
    file = tmp_path / "web" / "t.csv"
    data = Table(files=file, url_column="url", private=True)
    shades = [open_image(row["image"]).getpixel((0, 0))[0] for row in data.build("train")]
    assert shades == [0, 1, 2]
    assert "image" not in Table(files=file).build("train")[0]
    assert "'url' is not read; if images are there, set url_column to it" in capsys.readouterr().err


def test_another_image_at_an_address_is_told(server, tmp_path):
    one = UrlImage(f"{server.at}/7.png", private=True)
    keys = short_keys([one], "image")
    for path in (tmp_path / "cache" / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    assert one.read() == png(7)  # the same again
    for path in (tmp_path / "cache" / "files").rglob("*"):
        if path.is_file():
            path.unlink()
    server.answers["/7.png"] = lambda request, _: answer(request, body=png(8))
    assert "is another image than when it was first fetched; to take it, set CONTRASTIVE_CACHE" in (
        refusal(server, "/7.png")
    )
    assert short_keys([one], "image") == keys


def test_a_saved_spec_may_not_ask_private_addresses_unless_it_is_trusted(tmp_path):
    spec = {
        "format": 1,
        "model": tiny_model("infonce"),
        "data": {"type": "image-folder", "folder": "web", "private": True},
    }
    (tmp_path / "run.json").write_text(json.dumps(spec))
    said = r"data.private: only your own spec may say so; if this one is yours, add --trusted"
    with pytest.raises(SpecError, match=said):
        load_spec(RunSpec, tmp_path / "run.json", trusted=False)
    assert load_spec(RunSpec, tmp_path / "run.json", trusted=True).data.private


def test_one_column_says_where_the_images_are():
    with pytest.raises(SpecError, match="image_column and url_column both say where the images"):
        ImageFolder(folder="web", image_column="image", url_column="url")
    with pytest.raises(SpecError, match="image_column and url_column both say where the images"):
        Table(files="web", image_column="image", url_column="url")


def test_a_column_of_addresses_that_is_not_there_is_told_with_its_field(tmp_path):
    (tmp_path / "captions.csv").write_text("link,text\nhttp://a.example/1.png,a dog\n")
    wrong = {"url_column": "address"}
    for data in (
        Table(files=tmp_path / "captions.csv", **wrong),
        ImageFolder(folder=tmp_path, **wrong),
    ):
        with pytest.raises(DataError, match=r"no column 'address'; .*; set url_column$"):
            data.build("train")
        right = data.model_copy(update={"url_column": "link", "holdout": 0})
        assert len(right.build("train")) == 1
