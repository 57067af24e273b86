"""``contrastive classify``."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from contrastive.cli.context import Context, classes_in, readable_images, templates_for
from contrastive.cli.options import (
    Changes,
    ClassesFile,
    Device,
    Images,
    Json,
    MinPrecision,
    Model,
    Template,
    TemplateSet,
    Trusted,
)
from contrastive.cli.output import show
from contrastive.errors import SpecError


def classify(
    images: Images,
    *,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of the classes, joined by commas, one with a comma in quotes; or a set, "
            "such as imagenet."
        ),
    ] = None,
    classes_file: ClassesFile = None,
    template: Template = None,
    template_set: TemplateSet = None,
    top: Annotated[int, typer.Option(min=1, help="Classes shown for each image.")] = 5,
    min_precision: MinPrecision = None,
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Zero-shot image classification."""
    from contrastive.prompts import TEMPLATES

    if classes is None and classes_file is None:
        msg = "give the classes: --classes dog,cat or --classes-file FILE"
        raise SpecError(msg)
    names = classes_in(classes, classes_file)
    templates = templates_for(template, template_set) or TEMPLATES
    context = Context(model, device=device, trusted=trusted, changes=changes)
    loaded = context.model
    images = readable_images(images)
    from contrastive.cli.class_results import class_results
    from contrastive.console import say
    from contrastive.inference.zero_shot import embed_classes, judged_classes
    from contrastive.reporting.tables import classes_table

    judged = judged_classes(
        loaded,
        images,
        names,
        templates=templates,
        min_precision=min_precision,
        cache=context.cache,
    )
    results = class_results(images, names, judged, chosen=min_precision is not None)
    if len(names) == 1:
        if judged.own_NC is None:
            say("one class alone always has 100 %; give several: --classes dog,cat")
        (name_D,) = embed_classes(loaded, names, templates=templates)
        cosines = loaded.embed("image", images, cache=context.cache) @ name_D
        for result, cosine in zip(results, cast("list[float]", cosines.tolist()), strict=True):
            result["cosine"] = cosine
            say(f"{result['image']}: cosine with {names[0]!r} {cosine:.3f}")
    show(results, as_json, classes_table(results, top))
