"""Frames of every library are the rows that a list of dicts would be."""

import io
import pickle  # noqa: TID251
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import contrastive
from contrastive.data import content_index
from contrastive.data.columns import Columns, has_all, ids_of, sources_of, values_of
from contrastive.data.content_hash import sample_keys
from contrastive.data.frames import HubImage, library_of
from contrastive.data.images import StoredImage, open_image
from contrastive.data.sample_lists import sample_list
from contrastive.data.samples import plain_rows, rows_of
from contrastive.datasets import Mix, Table
from contrastive.errors import BadSample, DataError, SpecError
from tests.toys import tiny_model

LIBRARIES = ("pandas", "polars", "pyarrow", "datasets")


def encoded(i):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (i, 0, 0)).save(held, "PNG")
    return held.getvalue()


def frame_of(library, rows):
    names = {name: [row.get(name) for row in rows] for name in rows[0]}
    module = pytest.importorskip(library)
    if library == "pyarrow":
        return module.table(names)
    return module.Dataset.from_dict(names) if library == "datasets" else module.DataFrame(names)


ROWS = [
    {"image": encoded(i), "text": f"a dog {i}", "id": "ab"[i // 2], "label": ("x", None)[i % 2]}
    for i in range(4)
]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_is_the_rows_of_a_list_of_dicts(library):
    frame = frame_of(library, ROWS)
    assert library_of(frame) == library
    rows = rows_of(frame)
    assert isinstance(rows, Columns)
    plain = [{k: v for k, v in row.items() if v is not None} for row in ROWS]
    expected = [dict(row, source=f"row {i}") for i, row in enumerate(rows_of(plain))]
    assert [*rows] == expected
    assert ids_of(rows).tolist() == [0, 0, 1, 1]
    assert [*sources_of(rows)] == ["row 0", "row 1", "row 2", "row 3"]
    assert [row["id"] for row in plain_rows(frame)] == ["a", "a", "b", "b"]
    assert sample_list(frame, "text") == [row["text"] for row in ROWS]
    assert sample_list(frame, "image") == [row["image"] for row in ROWS]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_measures_searches_and_embeds_a_frame(library):
    model = contrastive.build_model(tiny_model("infonce"))
    frame, cache = frame_of(library, ROWS), contrastive.FeatureCache()
    plain = [{k: v for k, v in row.items() if k != "label"} for row in ROWS]
    labelless = frame_of(library, plain)
    assert contrastive.evaluate(model, labelless, cache=cache) == contrastive.evaluate(
        model, plain, cache=cache
    )
    texts = [row["text"] for row in ROWS]
    assert model.embed("text", frame).equal(model.embed("text", texts))
    without = frame_of(library, [{"image": row["image"], "text": row["text"]} for row in ROWS])
    found = contrastive.search(model, "a dog", samples=without)
    assert [hit.similarity for hit in found] == [
        hit.similarity for hit in contrastive.search(model, "a dog", samples=frame)
    ]


REMEDIES = {
    "pandas": lambda frame: frame.rename(columns={"caption": "text"}),
    "polars": lambda frame: frame.rename({"caption": "text"}),
    "pyarrow": lambda table: table.rename_columns({"caption": "text"}),
    "datasets": lambda dataset: dataset.rename_column("caption", "text"),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_column_of_another_name_is_renamed_as_is_told(library):
    frame = frame_of(library, [{"image": encoded(1), "caption": "a dog", "id": 3}])
    with pytest.raises(DataError, match="has no column 'text'; rename 'caption': ") as caught:
        rows_of(frame)
    code = str(caught.value).partition("rename 'caption': ")[2]
    renamed = eval(code, dict.fromkeys(("frame", "table", "dataset"), frame))
    assert rows_of(renamed)[0]["text"] == "a dog"
    with pytest.raises(BadSample, match=r"no column 'text'; there are: 'image', 'caption', 'id'; "):
        sample_list(frame, "text")


@pytest.mark.parametrize("library", LIBRARIES)
def test_lists_of_captions_are_told_with_the_line_that_makes_rows_of_them(library):
    frame = frame_of(library, [{"text": ["a dog", "a cat"], "id": 3}, {"text": ["a"], "id": 4}])
    with pytest.raises(DataError, match="has lists in its column 'text'; give each ") as caught:
        rows_of(frame)
    code = str(caught.value).partition("after ids are there: ")[2]
    names = dict.fromkeys(("frame", "table", "dataset"), frame)
    names |= {module: pytest.importorskip(module) for module in ("pyarrow", "datasets")}
    rows = rows_of(eval(code, names))
    assert [row["text"] for row in rows] == ["a dog", "a cat", "a"]
    assert ids_of(rows).tolist() == [3, 3, 4]


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_without_an_id_are_told_where_they_need_one(library):
    frame = frame_of(library, [{"text": "a dog"}])
    with pytest.raises(DataError, match="row 0: has no id; give each row one, equal in a group"):
        rows_of(frame)
    assert [*rows_of(frame, needs_ids=False)] == [{"text": "a dog", "id": 0, "source": "row 0"}]
    with pytest.raises(DataError, match="row 1: has no id"):
        rows_of(frame_of(library, [{"text": "a", "id": 1}, {"text": "b", "id": None}]))


def test_images_of_the_hub_are_read_when_they_are_needed(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "id": datasets.Value("int64"),
        }
    )
    path = tmp_path / "a.png"
    path.write_bytes(encoded(3))
    images = [{"bytes": encoded(1)}, {"bytes": None, "path": str(path)}, None]
    names = {"text": ["a", "b", "c"], "label": [1, 0, 1], "id": [5, 6, 7]}
    frame = datasets.Dataset.from_dict({"image": images} | names, features=features)
    reads, real = [], HubImage.read
    monkeypatch.setattr(HubImage, "read", lambda self: reads.append(self.row) or real(self))
    rows = rows_of(frame)
    assert [row["label"] for row in rows] == ["dog", "cat", "dog"]
    assert not reads
    assert all(isinstance(row["image"], StoredImage) for row in rows)
    assert open_image(rows[1]["image"]).getpixel((0, 0)) == (3, 0, 0)
    bad = []
    keys = sample_keys(values_of(rows, "image"), "image", lambda *told: bad.append(told))
    assert keys[:2] == sample_keys([encoded(1), encoded(3)], "image")
    assert bad == [(2, "row 2: 'image' holds no image")]
    assert sample_list(frame, "image")[:2] == values_of(rows, "image")[:2]
    content_index.content_index().write()
    content_index._index_in.cache_clear()
    reads.clear()
    assert sample_keys(values_of(rows_of(frame), "image"), "image") == keys
    assert reads == [2], "nothing is noted of what cannot be read"
    copy = pickle.loads(ForkingPickler.dumps(rows))
    assert copy[0]["image"].read() == encoded(1)
    assert has_all(rows, "image")


def test_other_modalities_and_kinds_of_values_stay_as_they_are():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"audio": [np.zeros(3), np.ones(2)], "text": ["a", None], "id": [1, 2]}
    )
    first, second = rows_of(frame)
    assert first["audio"].shape == (3,)
    assert second["text"] is None or second["text"] != second["text"]
    image = pandas.DataFrame({"image": [Path("a.png")], "id": [2.0]})
    assert [*rows_of(image)] == [{"image": Path("a.png"), "id": 2, "source": "row 0"}]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_in_place_of_a_dataset_is_told_what_to_write(library, tmp_path):
    frame = frame_of(library, ROWS)
    remedy = "write it to a Parquet file, and give "
    with pytest.raises(SpecError, match=rf"^Table: files: a \w+ is no file; {remedy}that$"):
        Table(files=frame)
    with pytest.raises(SpecError, match=rf"datasets\.a: needs the kind dataset, not .*{remedy}Ta"):
        Mix(datasets={"a": frame})
    with pytest.raises(SpecError, match=rf"^data: needs a dataset, not .*; {remedy}Table\(f"):
        contrastive.shard_data(frame, tmp_path / "shards")
    file = tmp_path / "rows.parquet"
    parquet = pytest.importorskip("pyarrow.parquet")
    write = {"polars": "write_parquet", "pyarrow": ""}.get(library, "to_parquet")
    getattr(frame, write)(file) if write else parquet.write_table(frame, file)
    rows = Table(files=file, split_column="", holdout=0).build("train")
    assert {row["text"] for row in rows} == {row["text"] for row in ROWS}
