"""An editor helps with a spec: a real YAML language server with the schema that we write."""

from __future__ import annotations

import inspect
import json
import re
from itertools import cycle
from urllib.parse import quote

import pytest

from contrastive.components import REGISTRIES
from contrastive.config.field_docs import fields_of, prose
from contrastive.config.yaml_files import read_yaml
from contrastive.encoders import encoders
from contrastive.heads import heads
from contrastive.losses import losses
from contrastive.spec import ModelSpec, RunSpec, Tower, TrainingSpec
from tests.editor.client import Editor, missing
from tests.pages import MINIMAL, PAGES, REFERENCE, ROOT, TUTORIAL, blocks_of, validated, what_is

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

SCHEMA = "contrastive.schema.json"
MODELINE = "# yaml-language-server: $schema={}\n"
SPEC = """\
# yaml-language-server: $schema=contrastive.schema.json
model:
  embed_dim: 32
  towers:
    image:
      encoder:
        type: timm
        name: resnet18.a1_in1k
      head: {type: linear}
    text:
      encoder: {type: cbow, width: 64}
      head: {type: mlp}
      frozen: none
  loss: {type: infonce, temperature: 0.07}
data: {type: flickr30k, folder: flickr30k}
training: {lr: 1e-3}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, process):
    """A folder with the schema, and one for each kind of component by itself."""
    folder = tmp_path_factory.mktemp("specs")
    assert process("schema", "--output", SCHEMA, cwd=folder).code == 0
    assert process("schema", "--of", "model", "--output", "model.json", cwd=folder).code == 0
    whole = json.loads((folder / SCHEMA).read_text())
    (folder / "run.json").write_text(json.dumps(whole))
    for registry in REGISTRIES:
        kind = registry.interface.kind
        reference = {"$ref": f"#/$defs/{quote(kind)}"}
        (folder / schema_of(kind)).write_text(json.dumps(whole | reference))
    return folder


@pytest.fixture(scope="module")
def editor(folder):
    with Editor(folder) as opened:
        yield opened


def schema_of(kind: str) -> str:
    return f"{kind.replace(' ', '-')}.json"


def spec(old: str, new: str) -> str:
    """Return the spec with a change, in which | is the cursor."""
    assert SPEC.count(old) == 1
    return SPEC.replace(old, new)


def about(cls) -> str:
    return prose(inspect.getdoc(cls))


NAMED = "type: timm\n        name: resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("registry", "text"),
    [
        (encoders, spec(NAMED, "type: |")),
        (encoders, spec("type: cbow, width: 64", "type: |")),
        (heads, spec("type: linear", "type: |")),
        (losses, spec("type: infonce, temperature: 0.07", "type: |")),
        (losses, spec("{type: infonce, temperature: 0.07}", "{type: queue, loss: {type: |}}")),
    ],
    ids=["encoder", "encoder in one line", "head", "loss", "loss within a loss"],
)
def test_type_completes_to_what_is_installed_and_says_what_it_is(registry, text, editor):
    assert editor.complete(text) == {name: about(registry[name]) for name in registry}


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.interface.kind)
def test_after_a_type_its_own_fields_are_offered_and_no_others(registry, editor):
    for name in registry:
        modeline = MODELINE.format(schema_of(registry.interface.kind))
        offered = editor.complete(f"{modeline}type: {name}\n|\n")
        assert offered == {row.name: row.help for row in fields_of(registry[name])}, name


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (RunSpec, MODELINE.format(SCHEMA) + "|"),
        (ModelSpec, MODELINE.format(SCHEMA) + "model:\n  |"),
        (Tower, MODELINE.format(SCHEMA) + "model:\n  towers:\n    image:\n      |"),
        (TrainingSpec, MODELINE.format(SCHEMA) + "training:\n  |"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_fields_of_a_section_are_offered(cls, text, editor):
    assert editor.complete(text) == {row.name: row.help for row in fields_of(cls)}


def test_the_values_of_a_field_are_offered(editor):
    assert set(editor.complete(spec("frozen: none", "frozen: |"))) == {"none", "encoder", "all"}
    augment = spec(NAMED, f"{NAMED}\n        augment: |")
    assert set(editor.complete(augment)) == {"none", "crop-flip", "simclr"}


def test_an_example_of_a_required_value_is_offered(editor):
    assert set(editor.complete(spec("resnet18.a1_in1k", "|"))) == {"resnet18.a1_in1k"}


def test_hovering_shows_the_docstrings(editor):
    helps = {row.name: row.help for row in fields_of(ModelSpec)}
    assert helps["embed_dim"] in editor.hover(spec("embed_dim", "embed|_dim"))
    fields = {row.name: row.help for row in fields_of(encoders["timm"])}
    assert fields["name"] in editor.hover(spec("name: resnet18", "n|ame: resnet18"))
    fields = {row.name: row.help for row in fields_of(losses["infonce"])}
    assert fields["temperature"] in editor.hover(spec("temperature", "temp|erature"))


@pytest.mark.parametrize("text", ["ty|pe: timm", "type: ti|mm"])
def test_hovering_over_a_type_shows_what_was_chosen_first(text, editor):
    heading, shown, *_ = editor.hover(spec("type: timm", text)).split("\n\n")
    assert heading == "#### Encoder"
    assert shown == about(encoders["timm"])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("embed_dim", "embeddim", 2, "Property embeddim is not allowed."),
        ("width: 64", "witdh: 64", 10, "Property witdh is not allowed."),
        ("temperature:", "temprature:", 13, "Property temprature is not allowed."),
        ("embed_dim: 32", "embed_dim: wide", 2, 'Incorrect type. Expected "integer".'),
        ("lr: 1e-3", "lr: fast", 15, 'Incorrect type. Expected "number".'),
        ("        name: resnet18.a1_in1k\n", "", 5, 'Missing property "name".'),
        ("flickr30k, folder: flickr30k", "image-folder", 14, 'Missing property "folder".'),
        ("data:", "output: x #", 1, 'Missing property "data".'),
        ("type: timm", "type: tim", 6, "Value is not accepted."),
        ("type: timm", "type:", 6, "Value is not accepted."),
        ("type: infonce, ", "", 13, 'Missing property "type".'),
        ("{type: cbow, width: 64}", "", 10, 'Incorrect type. Expected "Encoder".'),
        ("width: 64", "width: 0", 10, "Value is below the exclusive minimum of 0."),
        ("frozen: none", "frozen: head", 12, "Value is not accepted."),
    ],
)
def test_a_mistake_is_underlined_on_its_line_and_nothing_else_is(old, new, line, message, editor):
    [(where, what)] = editor.underline(spec(old, new))
    assert (where, what[: len(message)]) == (line, message)


def test_what_the_command_line_says_of_a_line_the_editor_says_too(editor, process):
    [wrong] = [block for block in blocks_of(ROOT / "docs/spec.md") if block.file == "wrong.yaml"]
    (editor.folder / "wrong.yaml").write_text(wrong.text)
    told = process("validate", "wrong.yaml", cwd=editor.folder).err.splitlines()
    of_two_fields = re.compile("is not between|needs folder")  # no schema knows of these
    lines = {int(line.split(":")[1]) - 1 for line in told if not of_two_fields.search(line)}
    modeline = MODELINE.format(SCHEMA).strip()
    text = wrong.text.replace("# wrong.yaml", modeline)
    assert {line for line, _ in editor.underline(text)} == lines


EXAMPLES = [
    pytest.param(path.read_text(encoding="utf-8"), id=path.name)
    for path in sorted((ROOT / "examples").rglob("*.yaml"))
]
# by day every third component: test_docs builds all of them from these blocks
BY_NIGHT = cycle([[], [pytest.mark.nightly], [pytest.mark.nightly]])
BLOCKS = [
    pytest.param(block.text, id=f"{block.place}:{block.line}", marks=marks)
    for page, marks in [*((page, []) for page in PAGES), *zip(REFERENCE, BY_NIGHT, strict=False)]
    for block in blocks_of(page)
    if block.language == "yaml"
    and not block.reason
    and not validated(block)  # which the page may show to be wrong
    and page != TUTORIAL  # names what is not installed
]


@pytest.mark.parametrize("text", [pytest.param(SPEC, id="this one"), *EXAMPLES, *BLOCKS])
def test_nothing_is_underlined_in_a_valid_file(text, editor, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    data, _ = read_yaml(path)
    kind = what_is(data)
    modeline = MODELINE.format(schema_of(kind))
    rest = MINIMAL if kind == "run" else {}  # a page may show some sections of a run
    sections = [f"{name}: {json.dumps(rest[name])}\n" for name in rest if name not in data]
    text = text.replace("# yaml-language-server:", "#")
    assert editor.underline("".join([modeline, text, *sections])) == []


def test_the_ways_to_the_schema_that_the_page_shows_lead_there(folder):
    blocks = blocks_of(ROOT / "docs/spec.md")
    [with_modeline] = [block.text for block in blocks if block.file == "clip.yaml"]
    [settings] = [json.loads(block.text) for block in blocks if block.language == "json"]
    chosen = about(encoders["resnet"])
    cursor = with_modeline.replace("type: resnet", "type: res|net")
    without = cursor.replace("# yaml-language-server", "#")
    with Editor(folder) as editor:
        assert chosen in editor.hover(cursor)
        assert editor.hover(without) == ""
    given = {name.removeprefix("yaml."): value for name, value in settings.items()}
    with Editor(folder, **given) as editor:
        assert chosen in editor.hover(without)
