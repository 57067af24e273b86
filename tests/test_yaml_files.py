"""Spec files: every mistake is one line, with its place, the offender and the remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive.config import yaml_files as files
from contrastive.encoders import Encoder, encoders
from contrastive.errors import SpecError
from contrastive.heads import Linear, Mlp
from contrastive.losses import losses
from contrastive.spec import EvaluationSpec, RunSpec

SPEC = """\
model:
  embed_dim: 64
  towers:
    image:
      encoder: {type: eye, size: 8}
      head: {type: mlp}
    text:
      encoder:
        type: ear
      head: {type: linear, bias: false}
  loss: {type: infonce, temperature: 0.07}
data: {type: image-folder, folder: pictures}
training:
  lr: 1e-3
  epochs: 1
evaluation:
  templates: ["a {}", "the {}"]
"""
TEMPLATES = '["a {}", "the {}"]'
LOSS = "{type: infonce, temperature: 0.07}"

NOT_YAML = [  # instead of the first, the second: on that line, this is said
    ("  embed_dim", "\tembed_dim", 2, "indent with spaces"),
    ("  embed_dim", " embed_dim", 3, "mapping values are not allowed here"),
    ("lr: 1e-3", "lr: is: small", 14, "put a text with ': ' in quotes"),
    ("pictures", "@home", 12, "put the text in quotes"),
    ("pictures", "{split}2017", 12, "a whole text that begins with {, [ or a quote in quotes"),
    (TEMPLATES, "[a {}]", 17, "put a text with {} in quotes"),
    (TEMPLATES, "[a, b", 18, "that starts on line 17, expected ',' or ']'"),
    ('the {}"', "the {}", 18, "that starts on line 17, found unexpected end of stream"),
    ("64", "*sixty", 2, "undefined alias 'sixty'"),
    ("pictures", r'"C:\pictures"', 12, "unknown escape character 'p'"),
    ("pictures", r'"\U00110000"', 1, "not in range"),
    ("evaluation:", "---\nevaluation:", 16, "remove the '---'"),
    ("lr: 1e-3", "epochs: 2", 15, "'epochs' is given twice, first on line 14"),
    ("lr: 1e-3", "<<: {lr: 1}", 14, "a key should be a text; not a list, a mapping or a merge"),
    ("lr: 1e-3", "? [lr]\n  : 1", 14, "a key should be a text"),
    ("lr: 1e-3", "? {lr: 1}\n  : 1", 14, "a key should be a text"),
    ("64", "!!python/object/apply:os.system [ls]", 2, "'python/object/apply:os.system' is not for"),
    ("64", "!width 64", 2, "the tag '!width' is not for specs"),
    ("pictures", "!!binary aGk=", 12, "the tag 'binary' is not for specs"),
    (TEMPLATES, "!!set {a, b}", 17, "the tag 'set' is not for specs"),
    ("64", "!!int many", 2, "'many' cannot be read as int"),
    ("64", "9" * 5000, 2, "cannot be read as int"),
    (TEMPLATES, "&a [*a]", 17, "too large or too deep once aliases are expanded"),
    ("64", "[" * 60 + "]" * 60, 2, "nested too deeply"),
    ("64", "[" * 50_000, 2, "nested too deeply"),
    ("pictures", r'"\ud800"', 12, "half of a character (a lone surrogate)"),
    ("pictures", "a\0b", 12, "character #x0000 is not allowed"),
    ("pictures", r'"a\0b"', 12, "a text cannot hold a NUL"),
    ("pictures", "\x1b[31m", 12, "character #x001b is not allowed"),
    (
        "pictures",
        "&home",
        12,
        "&home names a value, and none follows; if it is a text, write '&home'",
    ),
    ("1e-3", "&lr # to do", 14, "&lr names a value, and none follows"),
    (
        "1e-3",
        "!!float",
        14,
        "a tag (!) comes before a value, and none follows; give one, write null",
    ),
    ("lr: 1e-3", "device: ! ", 14, "a tag (!) comes before a value, and none follows"),
    ("lr: 1e-3", "split: |\n", 14, "| begins a text of indented lines, and none follows; give one"),
    ("lr: 1e-3", "micro_batch: !!null 3", 14, "'3' cannot be read as null"),
]
LOSSES = ", ".join(losses)
NO_TYPE = f"model.loss: needs a 'type', one of: {LOSSES}"
A_NAME = "model.loss: needs a 'type'; write {type: infonce}"
NOT_A_SPEC = [
    ("embed_dim", "embde_dim", 2, "model.embde_dim: unknown field; did you mean 'embed_dim'?"),
    ("size: 8", "sise: 8", 5, "encoder.sise: unknown field; did you mean 'size'?"),
    ("size: 8", "size: 8, xyz: 1", 5, "encoder.xyz: unknown field; there are: size, name"),
    ("lr: 1e-3", "1: 2", 14, "training.1: unknown field"),
    (", size: 8", "", 5, "model.towers.image.encoder.size: Field required"),
    ("data: {type: image-folder, folder: pictures}", "", 1, "data: Field required"),
    ("type: mlp", "type: mpl", 6, "unknown head 'mpl'; did you mean 'mlp'?"),
    (
        "type: ear",
        "type: earr",
        9,
        "model.towers.text.encoder: unknown encoder 'earr'; did you mean",
    ),
    ("type: mlp", "type: infonce", 6, "model.towers.image.head: unknown head 'infonce'"),
    ("type: infonce, ", "", 11, NO_TYPE),
    (LOSS, "infonce", 11, A_NAME),
    (LOSS, "", 11, NO_TYPE),
    (LOSS, "[infonce]", 11, NO_TYPE),
    ("type: infonce", "type: 3", 11, NO_TYPE),
    ("64", "-64", 2, "model.embed_dim: Input should be greater than 0"),
    ("64", "64.5", 2, "model.embed_dim: Input should be a valid integer"),
    ("1e-3", "small", 14, "training.lr: Input should be a valid number"),
    ("1e-3", "[1]", 14, "training.lr: Input should be a valid number"),
    ("1e-3", "", 14, "training.lr: Input should be a valid number"),
    ("1e-3", ".inf", 14, "training.lr: Input should be a finite number"),
    ("1e-3", ".nan", 14, "training.lr: Input should be"),
    ("size: 8", "size: 8, name: 8", 5, "encoder.name: Input should be a valid string"),
    ("0.07", "7", 11, "model.loss: temperature 7 is not between"),
    (
        SPEC[SPEC.index("\n  lr") : SPEC.index("\neval")],
        " fast",
        13,
        "training: needs a mapping of fields",
    ),
    ("the {}", "the", 17, "evaluation.templates: template 'the' has no {} for the class"),
    (
        "type: ear",
        "type: eye\n        size: 8",
        7,
        "model.towers.text: encoder 'eye' encodes image",
    ),
    ("    text:", "    txt:", 7, "model.towers.txt: encoder 'ear' encodes text, not txt"),
    (LOSS, f"{LOSS}\n  pairs:\n    - [image, tetx]", 13, "model.pairs.0: no tower 'tetx'; did you"),
    (LOSS, f"{{type: matryoshka, widths: [96], loss: {LOSS}}}", 11, "model.loss: width 96 of"),
    (
        "{type: linear, bias: false}",
        "{type: linear}\n      lora: {}",
        11,
        "model.towers.text.lora: is for",
    ),
    (
        "epochs: 1",
        "layer_decay: {audio: 0.5}",
        15,
        "training.layer_decay: the model has no audio tower",
    ),
    ("epochs: 1", "device: ''", 15, "training.device: is empty; give a name"),
    (
        "pictures",
        "3",
        12,
        "data.folder: 3 is no path; a file or a folder of that name is put in quotes",
    ),
    (
        "pictures",
        "true",
        12,
        "data.folder: true is no path; a file or a folder of that name is put",
    ),
    ("pictures", "[a]", 12, "data.folder: a list is no path; give a text, such as data/photos"),
    ("pictures", "null", 12, "data.folder: null is no path; give a text"),
    ("pictures", "' '", 12, "data.folder: is empty; give a path"),
    (
        SPEC[SPEC.index("    text") : SPEC.index("  loss")],
        "",
        3,
        "model.towers: image has nothing to be compared with; for two views, pairs:",
    ),
]
BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]" for i in range(40))])
TWICE = BOMB.replace("[x, x]", "{x: 1, x: 1}")
WHOLE = [
    (BOMB, 1, "too large or too deep once aliases are expanded"),
    (TWICE, 1, "'x' is given twice"),
    (SPEC.encode("utf-16"), 1, "save the file as UTF-8"),
    (SPEC.replace("pictures", "Bücher").encode("latin-1"), 12, "save the file as UTF-8"),
    ("", 1, "a spec is a mapping of names to values, this is empty"),
    ("# to do\n", 1, "this is empty"),
    ("- model\n- data\n", 1, "this is a list"),
    ("model", 1, "this is a text"),
    ("3.5", 1, "this is a number"),
]
OVERRIDES = [
    ("a.b", "write it as a.b=value"),
    ("=1", "write it as a.b=value"),
    ("a..b=1", "write it as a.b=value"),
    (".a=1", "write it as a.b=value"),
    ("a\x1b[31m=1", "write it as a.b=value"),
    ("training.lr=[1", "expected ',' or ']'"),
    ("training.lr=a: b: c", "mapping values are not allowed here"),
    ("training.lr=!!python/name:os.system x", "is not for specs"),
    ("training.lr=small", "training.lr: Input should be a valid number"),
    ("training.lr=-1", "training.lr: Input should be greater than 0"),
    (
        "training.lr=",
        "has no value; give one, write null for none, or leave it out for its default",
    ),
    ("output=#1", "has no value; give one, write null for none"),
    ("output=&x", "&x names a value, and none follows; if it is a text, write '&x'"),
    ("training.lr.max=1", "training.lr is a number without 'max'"),
    ("training.lrr=1", "training.lrr: unknown field; did you mean 'lr'?"),
    ("trainin.lr=1", "trainin: unknown field; did you mean 'training'?"),
    ("evaluation.templates.2=a {}", "evaluation.templates is a list without '2'"),
    ("evaluation.templates.-1=a {}", "evaluation.templates is a list without '-1'"),
    ("evaluation.templates.x=a {}", "evaluation.templates is a list without 'x'"),
    ("evaluation.templates.1=3", "evaluation.templates.1: Input should be a valid string"),
    ("model.loss.type=infnce", "model.loss: unknown loss 'infnce'; did you mean 'infonce'?"),
    ("model.loss=infonce", A_NAME),
    ("model.loss={temperature: 1}", NO_TYPE),
    ("model=null", "model: needs a mapping of fields"),
]


class Eye(Encoder):
    modality: ClassVar[str] = "image"
    size: int
    name: str = "on"

    def build(self) -> Any:
        raise NotImplementedError


class Ear(Encoder):
    modality: ClassVar[str] = "text"

    def build(self) -> Any:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _encoders():
    encoders.register("eye")(Eye)
    encoders.register("ear")(Ear)


@pytest.fixture
def written(tmp_path):
    """Write a spec file."""

    def write(text: str | bytes = SPEC, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def changed(old: str, new: str) -> str:
    assert SPEC.count(old) == 1
    return SPEC.replace(old, new)


def refused(ended) -> list[str]:
    """Return the lines with which a command refuses a spec."""
    assert ended.code == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.err.isascii()
    return ended.err.splitlines()


@pytest.mark.parametrize(
    ("text", "number", "words"),
    [*((changed(o, n), *said) for o, n, *said in NOT_YAML + NOT_A_SPEC), *WHOLE],
    ids=[*(words for *_, words in NOT_YAML + NOT_A_SPEC), *(words for *_, words in WHOLE)],
)
def test_a_mistake_is_one_line_with_its_place(text, number, words, command, written):
    path = written(text)
    (line,) = refused(command("validate", path))
    assert line.startswith(f"{path}:{number}: ")
    assert words in line


@pytest.mark.parametrize(("override", "words"), OVERRIDES)
def test_a_mistake_in_an_override_names_the_override(override, words, command, written):
    (line,) = refused(command("validate", written(), override))
    assert line.startswith(f"override {override!r}: ")
    assert words in line


def test_all_mistakes_are_told_at_once(command, written):
    path = written("model: {towers: {}, loss: {type: x}}\ndata: {type: image-folder}\n")
    lines = refused(command("validate", path, "training.epoch=1", "a", "training.lr.x=1"))
    assert lines == [
        "override 'a': write it as a.b=value",
        f"{path}:1: model.towers: Dictionary should have at least 1 item after validation, not 0",
        f"{path}:1: model.loss: unknown loss 'x'; there are: {LOSSES}",
        f"{path}:2: data.folder: Field required",
        "override 'training.lr.x=1': training.lr: Input should be a valid number",
        "override 'training.epoch=1': training.epoch: unknown field; did you mean 'epochs'?",
    ]


def test_a_file_that_is_not_there(command, tmp_path):
    (line,) = refused(command("validate", tmp_path / "run.yaml"))
    assert line == f"{tmp_path / 'run.yaml'}: no such file"


def test_a_folder_is_not_a_spec(command, tmp_path):
    (line,) = refused(command("validate", tmp_path))
    assert line == f"{tmp_path}: neither a spec nor a saved model or run"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(command, written):
    path = written()
    path.chmod(0)
    (line,) = refused(command("validate", path))
    assert line == f"{path}: cannot be read: Permission denied"


def test_a_huge_file_is_refused_unread(command, tmp_path):
    path = tmp_path / "run.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: no disk is used, but reading it would not end
    (line,) = refused(command("validate", path))
    assert line == f"{path}: cannot be read: 1,000,000,000,000 bytes are too many (limit 100,000)"


@pytest.mark.slow
def test_a_real_process_says_the_same(process, written):
    path = written(b"model: \xff")
    (line,) = refused(process("validate", path))
    assert line == f"{path}:1: not UTF-8 (byte 7); save the file as UTF-8"
    (line,) = refused(process("train", written("model: @"), "--json"))
    assert line.endswith("put the text in quotes")


def test_words_and_numbers_are_those_of_yaml_1_2(written):
    text = changed("size: 8", "size: 0o10, name: off")
    run = files.load_spec(RunSpec, written(text), ["training.lr=2e-4", "data.folder=2024-01-01"])
    assert run.model.towers["image"].encoder == Eye(size=8, name="off")
    assert run.training.lr == 2e-4
    assert run.model_dump(mode="json")["data"]["folder"] == "2024-01-01"


def test_an_anchor_may_be_set_again(written):
    text = changed(TEMPLATES, "[&t 'a {}', *t, &t 'the {}', *t]")
    templates = files.load_spec(RunSpec, written(text)).evaluation.templates
    assert templates == ("a {}", "a {}", "the {}", "the {}")


@pytest.mark.parametrize("indent", [None, 1, "\t"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_json_is_read_too(written, indent, ensure_ascii):
    run = files.load_spec(RunSpec, written(), ["data.folder=\N{CAT FACE} \\ / caf\xe9"])
    text = json.dumps(run.model_dump(mode="json"), indent=indent, ensure_ascii=ensure_ascii)
    assert files.load_spec(RunSpec, written(text, "run.json")) == run


def test_a_byte_order_mark_is_skipped(written):
    assert files.load_spec(RunSpec, written(b"\xef\xbb\xbf" + SPEC.encode())) == files.load_spec(
        RunSpec, written()
    )


def test_what_is_dumped_has_every_field_and_loads_again(written):
    run = files.load_spec(RunSpec, written())
    text = files.dump_spec(run)
    assert "weight_decay: 0.01" in text
    assert files.load_spec(RunSpec, written(text)) == run


def test_overrides_change_the_spec_in_their_order(written):
    overrides = [
        "model.towers.image.head={type: linear}",
        "model.towers.text.head.type=mlp",
        "model.towers.text.head={type: mlp, dropout: 0.5}",
        "model.towers.text.head.dropout=0.25",
        "evaluation.templates.1=my {}",
        "output=here",
    ]
    run = files.load_spec(RunSpec, written(), overrides)
    assert run.model.towers["image"].head == Linear()
    assert run.model.towers["text"].head == Mlp(dropout=0.25)
    assert run.evaluation.templates == ("a {}", "my {}")
    assert run.output == Path("here")


def test_nothing_after_a_name_is_null_and_told(written, capsys):
    path = written(changed("lr: 1e-3", "clip_norm:  # to do") + "  split:\noutput: ~\n")
    run = files.load_spec(RunSpec, path, ["evaluation.split=val"])
    assert (run.training.clip_norm, run.evaluation.split, run.output) == (None, "val", None)
    assert capsys.readouterr().err == (
        f"{path}:14: training.clip_norm: has no value, taken as null; give one, write null for "
        "none, or leave it out for its default\n"
    )


def test_an_override_reaches_a_section_that_is_empty_or_not_there(written):
    empty = changed(SPEC[SPEC.index("\n  lr") : SPEC.index("\neval")], "")
    assert files.load_spec(RunSpec, written(empty), ["training.epochs=7"]).training.epochs == 7
    without = SPEC[: SPEC.index("training")]
    assert files.load_spec(RunSpec, written(without), ["training.epochs=7"]).training.epochs == 7


def test_an_override_changes_one_use_of_an_alias_not_the_other(written):
    text = changed("head: {type: mlp}", "head: &h {type: linear}").replace(
        "head: {type: linear, bias: false}", "head: *h"
    )
    towers = files.load_spec(
        RunSpec, written(text), ["model.towers.text.head.bias=false"]
    ).model.towers
    assert towers["image"].head == Linear(bias=True)
    assert towers["text"].head == Linear(bias=False)


def test_the_last_of_two_overrides_is_the_one_to_blame(written):
    overrides = ["training={lr: 1}", "training.lr=-1", "training.lr=-2", "training.epochs=1"]
    with pytest.raises(SpecError, match=r"^override 'training.lr=-2': training.lr") as caught:
        files.load_spec(RunSpec, written(), overrides)
    assert "\n" not in str(caught.value)


def loads_or_is_refused(path: Path, overrides: tuple[str, ...] = ()) -> None:
    try:
        files.load_spec(RunSpec, path, overrides, trusted=False)
    except SpecError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(line.startswith((f"{path}:", "override '", 'override "')) for line in lines)


SPLICES = st.builds(
    lambda start, length, text: SPEC[:start] + text + SPEC[start + length :],
    st.integers(0, len(SPEC)),
    st.integers(0, 30),
    st.text(max_size=8)
    | st.sampled_from([": ", "- ", "\n", "&a ", "*a", "!!", "{", "]", "#", "'"]),
)


@pytest.mark.slow
@given(text=st.text() | st.binary() | SPLICES)
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_spec_or_is_refused(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    loads_or_is_refused(path)


PLACES = st.sampled_from(["training.lr", "model", "model.loss", "evaluation.templates.0", "x.y"])


@pytest.mark.slow
@given(overrides=st.lists(st.text() | st.builds("{}={}".format, PLACES, st.text()), max_size=3))
@settings(max_examples=80, deadline=None)
def test_any_override_fits_or_is_refused(overrides, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "one.yaml"
    path.write_text(SPEC)
    loads_or_is_refused(path, tuple(overrides))


@pytest.mark.slow
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(max_examples=200, deadline=None)
def test_any_text_in_a_spec_survives_the_file(text, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    spec = EvaluationSpec(final_split=text, templates=(text + "{}",))
    path.write_text(files.dump_spec(spec), encoding="utf-8", newline="")
    assert files.load_spec(EvaluationSpec, path) == spec
