"""Check a component in one call, for a plugin's own tests.

The checks of every config are in ``generic``, those that encoders and heads share in ``rows``, the
others in a module for each kind. All run on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.config.base import Config
from contrastive.datasets import Dataset
from contrastive.encoders import Encoder
from contrastive.heads import Head
from contrastive.losses import Loss
from contrastive.testing import datasets, encoders, generic, heads, loss_modules
from contrastive.testing.checks import examine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.testing.checks import Check, Verdict
    from contrastive.testing.loss_modules import Ids


def check_component(
    config: Config,
    *,
    samples: Sequence[Any] | None = None,
    split: str = "train",
    in_dim: int | None = None,
    embed_dim: int | None = None,
    ids: Ids = "honoured",
) -> None:
    """Put a component through every check of its kind.

    Args:
        config: a component; of kinds other than encoder, head, loss, dataset, only its config.
        samples: three or more raw samples for an encoder, if not images or texts.
        split: which one of a dataset to read.
        in_dim: width of the features for a head; by default one that it takes.
        embed_dim: width of the embeddings for a head or a loss; by default one that it takes.
        ids: ``unused`` for a loss without negatives, which may ignore group ids.

    Raises:
        TypeError: ``config`` is not an instance of a config class.
        AssertionError: one line for each check that failed: what is wrong, and what to do.

    Example:
        >>> check_component(heads["identity"]())  # silent: every check passed
    """
    verdicts = examine_component(
        config, samples=samples, split=split, in_dim=in_dim, embed_dim=embed_dim, ids=ids
    )
    if failed := [str(verdict) for verdict in verdicts if verdict.problem]:
        raise AssertionError("\n".join(failed))


def examine_component(
    config: Config,
    *,
    samples: Sequence[Any] | None = None,
    split: str = "train",
    in_dim: int | None = None,
    embed_dim: int | None = None,
    ids: Ids = "honoured",
) -> list[Verdict]:
    """Return what each check found, and restore random states; arguments as ``check_component``.

    Raises:
        TypeError: ``config`` is not an instance of a config class.

    Example:
        >>> verdicts = examine_component(heads["identity"]())
        >>> [verdict.check for verdict in verdicts if verdict.problem]
        []
    """
    if not isinstance(config, Config):  # pyright: ignore[reportUnnecessaryIsInstance]
        example = f"{getattr(config, '__name__', 'Component')}()"
        raise TypeError(f"a component is checked as an instance of its config, such as {example}")
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        subject, checks = generic.Subject(config), cast("tuple[Check, ...]", ())
        if isinstance(config, Encoder):
            subject = encoders.EncoderSubject(config, samples, Path(folder))
            checks = encoders.ENCODER_CHECKS
        elif isinstance(config, Head):
            subject, checks = heads.HeadSubject(config, in_dim, embed_dim), heads.HEAD_CHECKS
        elif isinstance(config, Loss):
            subject = loss_modules.LossSubject(config, embed_dim, ids)
            checks = loss_modules.LOSS_CHECKS
        elif isinstance(config, Dataset):
            subject, checks = datasets.DatasetSubject(config, split), datasets.DATASET_CHECKS
        return examine((*generic.GENERIC_CHECKS, *checks), subject, home=subject.home)
