"""The dataset ``audio-folder``."""

import pytest
from contrastive_audio import AudioFolder

from contrastive import testing
from contrastive.interface import DataError, datasets, rows_of


@pytest.fixture
def folder(tmp_path):
    """Files with sounds' names; nothing is decoded."""
    (tmp_path / "clips").mkdir()
    for number in range(40):
        (tmp_path / "clips" / f"{number}.wav").touch()
    (tmp_path / "dog.png").touch()
    return tmp_path


def write(folder, *lines, name="captions.csv"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return AudioFolder(folder=folder, max_bad=1)


def test_a_spec_finds_it_by_name():
    assert datasets["audio-folder"] is AudioFolder


def test_a_row_has_its_sound_caption_picture_and_class(folder):
    config = write(
        folder,
        "audio,text,image,group,label,split",
        "clips/0.wav,a dog barks,dog.png,dog,animal,train",
        "./clips/1.wav,a dog howls,dog.png,dog,animal,training",
        "clips/2.wav,rain,dog.png,rain,weather,Dev",
        "clips/3.wav,snow,dog.png,snow,weather,TEST",
    )
    one, two = rows_of(config.build("train"))
    assert one == {
        "audio": folder / "clips/0.wav",
        "image": folder / "dog.png",
        "text": "a dog barks",
        "id": 0,
        "source": "captions.csv:2",
        "label": "animal",
    }
    assert two["id"] == one["id"]
    assert config.build("val")[0]["id"] == 1
    assert len(config.build("test")) == 1
    assert config.build("val").classes == ("animal", "weather")


def test_captions_of_one_clip_belong_together(folder):
    config = write(
        folder,
        '{"file_name": "clips/0.wav", "sentence": "one", "split": "test"}',
        '{"file_name": "clips/0.wav", "sentence": "uno", "split": "test"}',
        '{"file_name": "clips/1.wav", "sentence": "two", "split": "test"}',
        name="metadata.jsonl",
    )
    rows = rows_of(config.build("test"))
    assert [row["id"] for row in rows] == [0, 0, 1]
    assert all("image" not in row and "label" not in row for row in rows)


def test_without_a_split_column_a_hash_decides_whatever_else_there_is(folder):
    lines = [f"clips/{number}.wav\tsound {number}" for number in range(40)]
    config = write(folder, "audio\ttext", *lines, name="captions.tsv")
    config = config.model_copy(update={"holdout": 0.25})
    homes = {
        row["text"]: split for split in ("train", "val", "test") for row in config.build(split)
    }
    assert len(homes) == 40
    assert len(set(homes.values())) == 3
    (folder / "captions.tsv").write_text("\n".join(["audio\ttext", *lines[::-2]]))
    for split in ("train", "val", "test"):
        assert all(homes[row["text"]] == split for row in config.build(split))
    assert len(config.build("train+val+test")) == 20


def test_bad_rows_are_reported_and_left_out(folder):
    config = write(
        folder,
        "audio,text,image,split",
        "clips/0.wav,good,dog.png,train",
        "clips/99.wav,not there,dog.png,train",
        "clips/1.wav,,dog.png,train",
        "../secret.wav,outside,dog.png,train",
        "clips/2.wav,no image,cat.png,train",
        "clips/3.wav,three fields,dog.png",
        "clips/0.wav,in two splits,dog.png,test",
        "clips/4.wav,of another split,dog.png,test",
    )
    samples = config.build("train")
    assert len(samples) == 1
    assert samples.bad_rows.lines == [
        f"captions.csv:3: audio 'clips/99.wav' is not in {folder}",
        "captions.csv:4: 'text' is empty or not a text",
        "captions.csv:5: audio '../secret.wav' is outside the folder",
        f"captions.csv:6: image 'cat.png' is not in {folder}",
        "captions.csv:7: 3 fields, but the header has 4",
    ]
    tested = config.build("test")
    assert [row["text"] for row in tested] == ["of another split"]
    assert "captions.csv:8: audio 'clips/0.wav' is in split train already" in tested.bad_rows.lines
    with pytest.raises(DataError, match=r"5 of 6 samples are bad, 1 may be \(max_bad: 0.01\)"):
        config.model_copy(update={"max_bad": 0.01}).build("train")


@pytest.mark.parametrize(
    ("lines", "fields", "says"),
    [
        (["sound,text", "a,b"], {}, r"captions.csv:1: no column audio or file_name or filename"),
        (["audio,text", "a,b"], {"label_column": "kind"}, "no column 'kind'; there are: 'audio'"),
        (["audio,text,split", "clips/0.wav,b,train"], {}, "no split 'test'; there are: 'train'"),
        (["audio,text", "clips/0.wav,b"], {"captions": "c.csv"}, "c.csv: no such file"),
        (["audio,text"], {}, "no samples in split 'test'"),
        ([""], {}, "captions.csv:1: the file is empty"),
    ],
    ids=range(6),
)
def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder, lines, fields, says):
    write(folder, *lines)
    with pytest.raises(DataError, match=says) as caught:
        AudioFolder(folder=folder, **fields).build("test")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_or_has_no_captions_says_so(folder):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        AudioFolder(folder=folder / "nowhere").build("train")
    with pytest.raises(DataError, match=r"no captions; looked for captions.csv, "):
        AudioFolder(folder=folder).build("train")


@pytest.mark.slow
def test_it_keeps_what_every_dataset_promises(spoken):
    if not hasattr(testing, "check_component"):
        pytest.skip("contrastive.testing has no check_component")
    testing.check_component(AudioFolder(folder=spoken))
