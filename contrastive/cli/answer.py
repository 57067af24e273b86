"""``contrastive answer``."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from contrastive.cli.context import Context, names_in, readable_images
from contrastive.cli.options import Changes, Device, Images, Json, Model, Trusted
from contrastive.cli.output import show


def answer(
    images: Images,
    question: Annotated[
        str, typer.Option(help="Such as 'what color is the car?', or 'the car is {}'.")
    ],
    answers: Annotated[
        str, typer.Option(help="Answers to rank, joined by commas; one with a comma in quotes.")
    ],
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="A sentence with {statement}, or with {} for the answer; may be repeated."
        ),
    ] = None,
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Rank answers to a question about an image."""
    names = names_in(answers)
    context = Context(model, device=device, trusted=trusted, changes=changes)
    loaded = context.model
    images = readable_images(images)
    from contrastive.console import say
    from contrastive.inference.question_answering import answer as probabilities_of
    from contrastive.inference.question_answering import sentences_of
    from contrastive.inference.question_forms import YES_OR_NO
    from contrastive.reporting.tables import classes_table

    probabilities = probabilities_of(
        loaded, images, question, names, templates=template, cache=context.cache
    )
    if YES_OR_NO & {name.lower() for name in names}:
        say("captions hardly say yes or no; better answers say what is seen: 'a dog,an empty room'")
    if len(names) == 1:
        say("one answer alone always has 100 %; give several: --answers red,blue")
    rows = cast("list[list[float]]", probabilities.tolist())
    results = [
        {
            "image": str(image),
            "question": question,
            "sentences": sentences_of(question, template),
            "probabilities": dict(zip(names, row, strict=True)),
        }
        for image, row in zip(images, rows, strict=True)
    ]
    show(results, as_json, classes_table(results, len(names), "answer"))
