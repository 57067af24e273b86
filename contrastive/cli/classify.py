"""``contrastive classify``."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from contrastive.cli.context import Context, names_in, templates_for
from contrastive.cli.options import Device, Images, Json, Model, Template, TemplateSet, Trusted
from contrastive.cli.output import show


def classify(
    images: Images,
    classes: Annotated[str, typer.Option(help="Names of the classes, joined by commas.")],
    template: Template = None,
    template_set: TemplateSet = None,
    top: Annotated[int, typer.Option(min=1, help="Classes shown for each image.")] = 5,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Zero-shot image classification."""
    from contrastive.prompts import TEMPLATES

    names = names_in(classes)
    templates = templates_for(template, template_set) or TEMPLATES
    context = Context(model, device=device, trusted=trusted)
    loaded = context.model
    from contrastive.console import say
    from contrastive.inference.zero_shot import classify as probabilities_of
    from contrastive.reporting.tables import classes_table

    probabilities = probabilities_of(
        loaded, images, names, templates=templates, cache=context.cache
    )
    if len(names) == 1:
        say("one class alone always has 100 %; give several: --classes dog,cat")
    rows = cast("list[list[float]]", probabilities.tolist())
    results = [
        {"image": str(image), "probabilities": dict(zip(names, row, strict=True))}
        for image, row in zip(images, rows, strict=True)
    ]
    show(results, as_json, classes_table(results, top))
