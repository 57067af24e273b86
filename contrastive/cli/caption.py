"""``contrastive caption``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contrastive.cli.context import Context, readable_images
from contrastive.cli.options import (
    Changes,
    Data,
    Device,
    Images,
    Json,
    MinPrecision,
    Model,
    Split,
    Trusted,
)
from contrastive.cli.output import show
from contrastive.errors import SpecError


def caption(
    images: Images,
    *,
    corpus: Annotated[
        Path | None,
        typer.Option(help="A file of sentences, one a line; else the captions of --data."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Sentences for each image.")] = 3,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="0 takes the nearest; more avoids paraphrases.")
    ] = 0.0,
    min_precision: MinPrecision = None,
    data: Data = None,
    split: Split = None,
    model: Model = None,
    changes: Changes = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Caption images by retrieval: the nearest sentences of a corpus."""
    if corpus and data:
        msg = f"--corpus {corpus} and --data {data}: give one of them"
        raise SpecError(msg)
    context = Context(model, device=device, trusted=trusted, changes=changes)
    loaded = context.model
    images = readable_images(images)
    from contrastive.data.samples import check_modalities
    from contrastive.datasets.single_modality import lines_of
    from contrastive.inference.captioning import caption as captions_of
    from contrastive.reporting.tables import captions_table

    remedy = "--corpus or --data"
    rows = lines_of(corpus) if corpus else context.rows(split, data, remedy=remedy)
    check_modalities(rows, ["text"], remedy=f"give sentences by {remedy}")
    texts = [str(row["text"]) for row in rows]
    found = captions_of(
        loaded,
        images,
        texts,
        top=top,
        diversity=diversity,
        min_precision=min_precision,
        cache=context.cache,
    )
    results = [
        {
            "image": str(image),
            "captions": [
                {
                    "text": one.text,
                    "similarity": one.similarity,
                    "source": str(rows[one.index].get("source", "")),
                }
                | ({} if one.probability is None else {"probability": one.probability})
                for one in captions
            ],
        }
        for image, captions in zip(images, found, strict=True)
    ]
    show(results, as_json, captions_table(results))
