"""Embeddings in a folder: what the model's own ``embed`` gives, in shards that any tool reads."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import normalize

from contrastive import EmbeddingFolder, RunSpec, build_model, embed, load_model, train
from contrastive.data.worker_processes import LostWorker
from contrastive.errors import ContrastiveError, DataError, PluginError, SpecError
from contrastive.evaluation.retrieval import recall
from contrastive.evaluation.stored_recall import recall_as_stored
from contrastive.indexes.vector_form import Form
from contrastive.inference import embed_processes
from contrastive.inference.embed import plan_embedding
from contrastive.inference.embed_processes import embed_in_processes
from contrastive.nn.memory import OutOfMemory
from tests.miniature import Picture
from tests.toys import tiny_model, toy_dict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Return a folder with data and a run on them."""
    shop = tmp_path_factory.mktemp("shop")
    spec = toy_dict(shop / "data", epochs=1)
    (shop / "toy.yaml").write_text(json.dumps(spec))
    train(RunSpec.model_validate(spec), shop / "runs" / "toy")
    return shop


@pytest.fixture
def here(shop, monkeypatch):
    monkeypatch.chdir(shop)
    return shop


@pytest.fixture(scope="module")
def model(shop):
    return load_model(shop / "runs" / "toy")


@pytest.fixture(scope="module")
def rows(shop):
    run = RunSpec.model_validate(json.loads((shop / "toy.yaml").read_text()))
    data = run.data.build("train")
    return [data[i] for i in range(len(data))]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("contrastive.inference.embed.SHARD_ROWS", 8)


TEXTS = [{"text": f"a {i}", "id": i, "source": f"row {i}"} for i in range(8)]


@pytest.fixture
def tiny():
    """Return a model of texts and images that embeds in no time."""
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("small_shards")
def test_other_tools_read_what_the_model_embeds(model, rows, tmp_path):
    folder = embed(model, rows, tmp_path / "out")
    for modality in ("image", "text"):
        shards = sorted((tmp_path / "out").glob(f"{modality}-*.safetensors"))
        assert len(shards) > 1
        found = np.concatenate([load_file(shard)["embeddings"] for shard in shards])
        tables = [pq.ParquetFile(shard.with_suffix(".parquet")).read() for shard in shards]
        table = [row for one in tables for row in one.to_pylist()]
        samples = [rows[row["row"]][modality] for row in table]
        assert [row["sample"] for row in table] == [str(sample) for sample in samples]
        assert [row["source"] for row in table] == [rows[row["row"]]["source"] for row in table]
        np.testing.assert_allclose(found, model.embed(modality, samples).numpy(), atol=1e-6)
        np.testing.assert_array_equal(folder.embeddings(modality).numpy(), found)
        assert folder.table(modality)["id"] == [row["id"] for row in table]
    images = folder.table("image")
    assert len(set(images["sample"])) == len(images["sample"]), "an image of two captions is one"
    assert {*images["id"]} == {*folder.table("text")["id"]} == {row["id"] for row in rows}


@pytest.mark.usefixtures("small_shards")
def test_what_was_written_stays_and_the_rest_is_added(model, rows, tmp_path):
    half = embed(model, rows, tmp_path / "out", part=(0, 2))
    before = contents(tmp_path / "out")
    assert half.missing()
    with pytest.raises(DataError, match="shards are not written yet; run contrastive embed again"):
        half.embeddings("image")
    torn = next(x for x in (tmp_path / "out").glob("image-00000-*.parquet"))
    torn.unlink()  # a crash between the two files of a shard
    whole = embed(model, rows, tmp_path / "out")
    assert not whole.missing()
    assert contents(tmp_path / "out").items() >= before.items()
    at_once = embed(model, rows, tmp_path / "at-once")
    assert contents(whole.path) == contents(at_once.path)


def test_another_model_data_or_form_is_refused_and_changes_nothing(model, rows, tmp_path):
    embed(model, rows, tmp_path / "out")
    before = contents(tmp_path / "out")
    for samples, options, other in (
        (rows[:4], {}, "data"),
        (rows, {"dim": 4}, "dim"),
        (rows, {"quantize": "int8"}, "quantize"),
    ):
        with pytest.raises(DataError, match=f"of another {other}; give another folder"):
            embed(model, samples, tmp_path / "out", **options)
    changed = model.__class__(model.spec)
    with pytest.raises(DataError, match="of another model"):
        embed(changed, rows, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"is there already, and holds no embeddings\.json"):
        embed(model, rows, tmp_path / "mine")
    assert [*contents(tmp_path / "mine")] == ["notes.txt"]


def test_forms_are_what_they_say():
    rows_QD = normalize(torch.randn(50, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    whole = Form().stored(rows_QD)["embeddings"]
    torch.testing.assert_close(whole, rows_QD)
    cut = Form(dim=8).stored(rows_QD)["embeddings"]
    torch.testing.assert_close(cut, normalize(rows_QD[:, :8], dim=1))
    int8 = Form(quantize="int8")
    assert int8.stored(rows_QD)["embeddings"].dtype == torch.int8
    error = (int8.restored(int8.stored(rows_QD)) - rows_QD).abs().amax(1)
    assert (error <= rows_QD.abs().amax(1) / 127).all()
    binary = Form(quantize="binary")
    bits = np.packbits(rows_QD.numpy() > 0, axis=1)
    np.testing.assert_array_equal(binary.stored(rows_QD)["embeddings"].numpy(), bits)
    signs = torch.where(rows_QD > 0, 1.0, -1.0)
    torch.testing.assert_close(binary.restored(binary.stored(rows_QD)), normalize(signs, dim=1))


def test_a_zero_row_has_a_form_too():
    for form in (Form(), Form(quantize="int8"), Form(quantize="binary")):
        assert form.restored(form.stored(torch.zeros(1, 8))).isfinite().all()


def test_what_a_form_loses_is_recall_of_what_is_stored(model, rows, tmp_path):
    form = Form(dim=8, quantize="binary")
    found = {(one.query, one.target): one for one in recall_as_stored(model, rows, form)}
    folder = embed(model, rows, tmp_path / "out", dim=8, quantize="binary")
    sides = [folder.embeddings(name) for name in ("text", "image")]
    ids = [torch.tensor(folder.table(name)["id"]) for name in ("text", "image")]
    expected = recall(*sides, *ids, ks=[10]).recall[10].value
    assert found["text", "image"].stored == pytest.approx(expected)
    assert found.keys() == {("text", "image"), ("image", "text")}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dim": 1000}, r"dim: 1000 is more than the \d+ numbers of an embedding"),
        ({"dim": 4, "quantize": "binary"}, "binary stores eight signs in a byte; give dim=8"),
    ],
)
def test_widths_that_do_not_fit_are_refused(model, rows, tmp_path, options, told):
    with pytest.raises(SpecError, match=told):
        embed(model, rows, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def photos(tmp_path):
    """Return a folder of ten images with captions, of which one cannot be read."""
    photos = tmp_path / "photos"
    photos.mkdir()
    lines = ["image,text,split"]
    for i in range(10):
        Picture(i).draw().save(photos / f"{i}.png")
        lines.append(f"{i}.png,caption {i},test")
    (photos / "1.png").write_bytes((photos / "1.png").read_bytes()[:-200])
    (photos / "captions.csv").write_text("\n".join(lines))
    return photos


@pytest.mark.usefixtures("small_shards")
def test_processes_write_what_one_writes_and_tell_it_once(
    here, photos, command, tmp_path, forkserver, monkeypatch
):
    # which gets the same pickles as one that is spawned, and has imported torch
    monkeypatch.setattr(embed_processes, "get_context", lambda _: forkserver)
    asked = ("embed", photos, "-m", here / "runs" / "toy", "--json", "--quantize", "int8")
    one = command(*asked, "-o", tmp_path / "one")
    two = command(*asked, "-o", tmp_path / "two", "--processes", 2)
    for done in (one, two):
        assert done.code == 3, done.err
        told = [line for line in done.err.splitlines() if "1.png" in line]
        assert len(told) == 1, done.err
        assert told[0].endswith("; left out")
        assert "Traceback" not in done.err
        found = json.loads(done.out)
        assert found["rows"] == {"image": 9, "text": 10}
        assert {x["query"] for x in found["recall"]} == {"image", "text"}
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    table = EmbeddingFolder(tmp_path / "two").table("image")
    assert [path.rpartition("/")[2] for path in table["sample"]] == [
        f"{i}.png" for i in range(10) if i != 1
    ]


def _load_and_die(run, of):
    """Load a model; of two processes, the one that comes second is killed instead."""
    try:
        Path(of).touch(exist_ok=False)
    except FileExistsError:
        os.kill(os.getpid(), signal.SIGKILL)
    return load_model(run), None


KEPT = "what is written is kept, run the same again"
LESS = "out of memory; use fewer processes (--processes), or another device"


@pytest.mark.nightly
@pytest.mark.usefixtures("small_shards")
def test_what_a_lost_process_leaves_is_done_by_the_others(shop, model, rows, tmp_path):
    plan = plan_embedding(model, rows, tmp_path / "out")
    load = partial(_load_and_die, shop / "runs" / "toy", tmp_path / "first")
    told = rf"^worker process \d+ was killed by SIGKILL \(out of memory\?\); .*; {KEPT}$"
    with pytest.raises(LostWorker, match=told):
        embed_in_processes(plan, 2, load)
    assert not multiprocessing.active_children()
    assert not plan.folder.missing()
    assert contents(tmp_path / "out") == contents(embed(model, rows, tmp_path / "one").path)


class InThread(threading.Thread):
    """Stands for a process, whose exit code is that of one that a real-time signal killed."""

    pid, exitcode = 1, -40

    def terminate(self):
        """Leave it: it has ended."""


@pytest.fixture
def threads_of(monkeypatch):
    """Let threads be the processes; return how many cores each was given."""
    given = []

    def start(folder, load, threads):
        here, there = multiprocessing.Pipe()
        thread = InThread(target=embed_processes._work, args=(folder, there, partial(load, there)))
        thread.start()
        given.append(threads)
        return here, thread

    monkeypatch.setattr(embed_processes, "_start", start)
    return given


CHANGED = "M: the model has changed meanwhile; embed into another folder"


@pytest.mark.parametrize(
    ("met", "kind", "told"),
    [
        (DataError(CHANGED), DataError, CHANGED),
        (OSError(errno.ENOSPC, "No space"), OSError, f"[Errno 28] No space; {KEPT}"),
        (OSError(errno.ENOSPC, "No space", "a"), OSError, f"[Errno 28] No space; {KEPT}: 'a'"),
        (OSError(errno.EACCES, "No", "a"), PermissionError, "[Errno 13] No: 'a'"),
        (MemoryError(), OutOfMemory, LESS),
        (ValueError("a flaw"), RuntimeError, "one of the processes raised ValueError: a flaw"),
    ],
)
@pytest.mark.usefixtures("threads_of")
def test_a_problem_in_a_process_is_told_as_in_a_single_one(tmp_path, tiny, met, kind, told, capfd):
    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    with pytest.raises(kind) as error:
        embed_in_processes(plan, 1, Mock(side_effect=met))  # no code of a package with components
    assert (error.type, str(error.value)) == (kind, told)
    notes = "".join(getattr(error.value, "__notes__", []))
    assert notes.count("ValueError: a flaw") == (kind is RuntimeError), "where it was raised"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("where", "raised"), [("forward", "KeyError: 'forward'"), ("forward, exit", "SystemExit")]
)
@pytest.mark.usefixtures("threads_of")
def test_a_problem_of_a_plugin_in_a_process_names_it(installed, tiny, tmp_path, where, raised):
    installed("fails")
    text = {"encoder": {"type": "failing-text", "where": where}, "head": {"type": "linear"}}
    spec = {"embed_dim": 8, "towers": {"text": text}, "pairs": [["text", "text"]]}
    fails = build_model(spec | {"loss": {"type": "infonce"}})
    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    with pytest.raises(PluginError) as error:
        embed_in_processes(plan, 1, lambda _: (fails, None))
    who = "encoder contrastive_fails:Text (of contrastive-fails 0.2.0)"
    assert str(error.value).startswith(f"{who} raised {raised} at __init__.py:")


@pytest.mark.usefixtures("threads_of")
def test_a_process_that_a_real_time_signal_killed_is_told(tmp_path, tiny):
    def vanish(pipe):
        pipe.close()
        raise OSError(errno.EPIPE, "its pipe is closed")

    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    with pytest.raises(LostWorker, match=r"^worker process 1 was killed by signal 40 .*again$"):
        embed_in_processes(plan, 1, vanish)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_processes_share_all_cores(tmp_path, tiny, threads_of, monkeypatch):
    monkeypatch.setattr("contrastive.data.worker_processes.QUOTA", tmp_path / "none")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr("contrastive.inference.embed.SHARD_ROWS", 4)
    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    embed_in_processes(plan, 2, lambda _: (tiny, None))
    assert threads_of == [32, 32]


def test_a_folder_without_embeddings_is_told(tmp_path):
    with pytest.raises(DataError, match=r"holds no embeddings\.json; give a folder that"):
        EmbeddingFolder(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "embeddings.json: not a JSON file"),
        ("[]", "embeddings.json: cannot be read: "),
        ('{"format": 2}', "a newer release wrote it; update contrastive-kit"),
        ('{"format": 1, "dim": 8}', "embeddings.json: cannot be read: "),
        (
            '{"format": 1, "model": "", "data": "", "dim": 8, "quantize": null, "samples": {}, '
            '"shards": {"../image": 1}}',
            "embeddings.json: cannot be read: ",
        ),
    ],
)
def test_a_folder_that_somebody_changed_is_told_in_one_line(tmp_path, content, told):
    (tmp_path / "embeddings.json").write_text(content)
    with pytest.raises(ContrastiveError, match=re.escape(told)) as raised:
        EmbeddingFolder(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("toy.yaml", "-o", "toy.yaml"),
            "toy.yaml: is there already, and holds no embeddings.json",
        ),
        (("toy.yaml", "-o", "/proc/embedded"), "name another folder for the embeddings"),
        (("toy.yaml", "-o", "out", "--split", "none"), "choose one by --split"),
        (("nowhere", "-o", "out"), "nowhere"),
        (("toy.yaml", "-o", "out", "--dim", "0"), "--dim"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(command, words, told):
    ended = command("embed", *words, "--model", "runs/toy")
    assert ended.code == 2
    assert told in ended.err
    assert "Traceback" not in ended.err
    assert not Path("out").exists()


def test_a_modality_that_the_data_lack_is_told(model, rows, tmp_path, capsys):
    images = [{"image": row["image"], "id": row["id"], "source": row["source"]} for row in rows]
    assert embed(model, images, tmp_path / "out").modalities == ["image"]
    assert "not embedded: text, of which the data have none" in capsys.readouterr().err
    with pytest.raises(DataError, match="has no embeddings of 'text'; take image"):
        EmbeddingFolder(tmp_path / "out").table("text")
    with pytest.raises(DataError, match="nothing to embed: there are no rows"):
        embed(model, [], tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
