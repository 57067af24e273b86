"""``contrastive answer``."""

from __future__ import annotations

from typing import Annotated

import typer

from contrastive.cli.context import Context, names_in, readable_images
from contrastive.cli.options import Changes, Device, Images, Json, MinPrecision, Model, Trusted
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
    *,
    min_precision: MinPrecision = None,
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
    from contrastive.cli.class_results import class_results
    from contrastive.console import say
    from contrastive.data.sample_lists import text_list
    from contrastive.inference.question_answering import sentences_of, told_sentences
    from contrastive.inference.question_forms import YES_OR_NO
    from contrastive.inference.zero_shot import judged_classes
    from contrastive.reporting.tables import classes_table

    judged = judged_classes(
        loaded,
        images,
        text_list(names, "answer"),
        templates=told_sentences(question, template),
        min_precision=min_precision,
        cache=context.cache,
    )
    if YES_OR_NO & {name.lower() for name in names}:
        say("captions hardly say yes or no; better answers say what is seen: 'a dog,an empty room'")
    if len(names) == 1 and judged.own_NC is None:
        say("one answer alone always has 100 %; give several: --answers red,blue")
    sentences = sentences_of(question, template)
    results = [
        {"image": result.pop("image"), "question": question, "sentences": sentences} | result
        for result in class_results(images, names, judged, chosen=min_precision is not None)
    ]
    show(results, as_json, classes_table(results, len(names), "answer"))
