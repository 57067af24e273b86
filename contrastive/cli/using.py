"""The verbs that use a model."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from contrastive.cli.context import cache_for, find_model_folder, load, run_of, templates_for
from contrastive.cli.options import Device, Json, Model, Split, Template, TemplateSet, Trusted, app
from contrastive.cli.output import show

if TYPE_CHECKING:
    from collections.abc import Sequence


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    classes: Annotated[str, typer.Option(help="The names, joined by commas.")],
    template: Template = None,
    template_set: TemplateSet = None,
    top: Annotated[int, typer.Option(min=1, help="Names shown for each picture.")] = 5,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say which of the names each picture goes with."""
    from contrastive.prompts import TEMPLATES

    names = [name.strip() for name in classes.split(",") if name.strip()]
    templates = templates_for(template, template_set) or TEMPLATES
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.inference.zero_shot import classify as probabilities_of

    probabilities = probabilities_of(
        loaded, images, names, templates=templates, cache=cache_for(folder)
    )
    rows = cast("list[list[float]]", probabilities.tolist())
    results = [
        {"image": str(image), "probabilities": dict(zip(names, row, strict=True))}
        for image, row in zip(images, rows, strict=True)
    ]
    from contrastive.reporting.tables import classes_table

    show(results, as_json, classes_table(results, top))


@app.command()
def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    corpus: Annotated[
        Path | None,
        typer.Option(help="A file of sentences, one a line; else the split's captions."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Sentences for each picture.")] = 3,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="0 takes the nearest, 1 the least alike.")
    ] = 0.5,
    split: Split = None,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find sentences that describe a picture, and not the same one in several wordings."""
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.data.samples import rows_of
    from contrastive.inference.captioning import caption as captions_of
    from contrastive.inference.search import lines_of
    from contrastive.reporting.tables import captions_table

    if corpus:
        rows = lines_of(corpus)
    else:
        run = run_of(folder, trusted=trusted, remedy="--corpus")
        rows = rows_of(run.data.build(split or run.evaluation.final_split))
    texts = [str(row["text"]) for row in rows]
    found = captions_of(
        loaded, images, texts, top=top, diversity=diversity, cache=cache_for(folder)
    )
    results = [
        {
            "image": str(image),
            "captions": [
                {
                    "text": one.text,
                    "similarity": one.similarity,
                    "source": str(rows[one.place].get("source", "")),
                }
                for one in captions
            ],
        }
        for image, captions in zip(images, found, strict=True)
    ]
    show(results, as_json, captions_table(results))


@app.command()
def answer(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    question: Annotated[
        str, typer.Option(help="Such as 'what color is the car?', or 'the car is {}'.")
    ],
    answers: Annotated[str, typer.Option(help="What is ranked, joined by commas.")],
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A sentence with {statement}, or with {} for the answer; may be repeated."
        ),
    ] = None,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Rank answers to a question about a picture."""
    names = [name.strip() for name in answers.split(",") if name.strip()]
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.console import say
    from contrastive.inference.question_answering import QUESTION_TEMPLATES, sentences_of
    from contrastive.inference.question_answering import answer as probabilities_of

    templates = template or QUESTION_TEMPLATES
    probabilities = probabilities_of(
        loaded, images, question, names, templates=templates, cache=cache_for(folder)
    )
    if {"yes", "no"} & {name.lower() for name in names}:
        say("captions hardly say yes or no; better answers say what is seen: 'a dog,an empty room'")
    results = [
        {
            "image": str(image),
            "question": question,
            "sentences": sentences_of(question, templates),
            "probabilities": dict(zip(names, row, strict=True)),
        }
        for image, row in zip(
            images, cast("list[list[float]]", probabilities.tolist()), strict=True
        )
    ]
    from contrastive.reporting.tables import classes_table

    show(results, as_json, classes_table(results, len(names), "answer"))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words, or the path of a picture.")],
    images: Annotated[Path | None, typer.Option(help="Search this folder of pictures.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Search this file, a text a line.")] = None,
    split: Split = None,
    *,
    find: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="What is searched: image, text, ...")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="MODALITY", help="What the query is, if not clear.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find pictures by words, texts by a picture, any modality by any: exact, best first."""
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.inference.search import candidates
    from contrastive.inference.search import find as hits_of
    from contrastive.reporting.tables import hits_table

    def data() -> Sequence[dict[str, Any]]:
        from contrastive.data.samples import rows_of

        run = run_of(folder, trusted=trusted, remedy="--images or --texts")
        return rows_of(run.data.build(split or run.evaluation.final_split))

    among = candidates(
        query,
        images=images,
        texts=texts,
        data=data,
        modalities=list(loaded.towers),
        by=by,
        find=find,
    )
    hits = hits_of(loaded, query, among, k=k, cache=cache_for(folder))
    show(hits, as_json, hits_table(hits))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .jpg, ...")],
    *,
    negative: Annotated[
        list[str] | None, typer.Option(help="What it should not show; may be repeated.")
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Pixels of its sides.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimiser.")] = 150,
    views: Annotated[int, typer.Option(min=1, help="Crops that each step looks at.")] = 6,
    seed: Annotated[int, typer.Option(help="Another one gives another picture.")] = 0,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Paint a picture for a prompt; Ctrl-C keeps the best so far."""
    from contrastive.data.images import check_writable

    check_writable(output)  # before minutes of work
    loaded = load(find_model_folder(model), device, trusted=trusted)
    from contrastive.inference.generation import generate as paint

    made = paint(
        loaded, prompt, size=size, steps=steps, seed=seed, views=views, negative=negative or ()
    )
    made.image.save(output)
    done = len(made.history)
    result = {"image": str(output), "cosine": made.cosine, "before": made.before, "steps": done}
    line = f"saved: {output}; cosine {made.cosine:.3f}, of the noise before {made.before:.3f}"
    show(result, as_json, line)
