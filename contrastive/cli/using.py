"""The verbs that use a model."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from contrastive.cli.app import Device, Json, Model, Split, Trusted, app
from contrastive.cli.given import cache_for, find_model_folder, load, run_of
from contrastive.cli.show import show

if TYPE_CHECKING:
    from collections.abc import Sequence


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures.")],
    classes: Annotated[str, typer.Option(help="The names, joined by commas.")],
    template: Annotated[
        list[str] | None, typer.Option(help="A sentence with {} for the name; may be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Names shown for each picture.")] = 5,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say which of the names each picture goes with."""
    from contrastive.spec import TEMPLATES

    names = [name.strip() for name in classes.split(",") if name.strip()]
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.zero_shot import classify as probabilities_of

    probabilities = probabilities_of(
        loaded, images, names, templates=template or TEMPLATES, cache=cache_for(folder)
    )
    rows = cast("list[list[float]]", probabilities.tolist())
    results = [
        {"image": str(image), "probabilities": dict(zip(names, row, strict=True))}
        for image, row in zip(images, rows, strict=True)
    ]
    from contrastive.tables import classes_table

    show(results, as_json, classes_table(results, top))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="Words, or the path of a picture.")],
    images: Annotated[Path | None, typer.Option(help="Search this folder of pictures.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Search this file, a text a line.")] = None,
    split: Split = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results.")] = 10,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find pictures by words, or texts by a picture: exact, best first."""
    folder = find_model_folder(model)
    loaded = load(folder, device, trusted=trusted)
    from contrastive.search import candidates, find
    from contrastive.tables import hits_table

    def data() -> Sequence[dict[str, Any]]:
        from contrastive.stream import rows_of

        run = run_of(folder, trusted=trusted, remedy="--images or --texts")
        return rows_of(run.data.build(split or run.evaluation.final_split))

    among = candidates(query, images=images, texts=texts, data=data)
    hits = find(loaded, query, among, k=k, cache=cache_for(folder))
    show(hits, as_json, hits_table(hits))
