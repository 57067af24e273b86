"""All that a plugin imports: ``from contrastive.interface import Encoder, EncoderModule``.

A name is imported on first use (PEP 562), so that importing this module, or a config from it,
imports no torch. These names are public; ``INTERFACE`` rises when one is removed or changes its
contract. A plugin's tests also import ``contrastive`` and ``contrastive.testing``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from contrastive.version import INTERFACE

if TYPE_CHECKING:
    from contrastive.config.base import Config
    from contrastive.config.extras import require
    from contrastive.config.json_schema import json_schema
    from contrastive.config.registry import Registry
    from contrastive.config.yaml_files import dump_spec, load_spec
    from contrastive.data.bad_rows import BadRows
    from contrastive.data.images import ImageSource, StoredImage, open_image
    from contrastive.data.samples import Preprocess, Sample, Samples, rows_of
    from contrastive.datasets import Dataset, Purpose, datasets
    from contrastive.datasets.captioned import FileIndex, leaves_folder
    from contrastive.datasets.image_folder import CAPTION_TABLES
    from contrastive.datasets.single_modality import SampleList
    from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, split_of
    from contrastive.datasets.text_tables import (
        TableRecord,
        choose_columns,
        name_list,
        quoted,
        read_table,
        readable_folder,
        text_of,
        text_problem,
    )
    from contrastive.distributed.global_batch import BatchGroup
    from contrastive.encoders import Encoder, HFText, Timm, encoders
    from contrastive.encoders.huggingface import (
        check_no_missing_weights,
        measure_out_dim,
        quiet_huggingface,
    )
    from contrastive.encoders.image import ImageTransform
    from contrastive.encoders.module import EncoderModule
    from contrastive.encoders.pooling import masked_mean
    from contrastive.encoders.text import as_text, tokenizer_hash
    from contrastive.encoders.weights import find_weights, loading_weights
    from contrastive.errors import (
        BadSample,
        ContrastiveError,
        DataError,
        MissingExtra,
        SpecError,
        WeightsError,
    )
    from contrastive.heads import Head, heads
    from contrastive.losses import Candidates, Direction, Loss, Negatives, Scaled, losses
    from contrastive.losses.backends.pair_labels import check_pair_counts, matched_ids
    from contrastive.losses.execution import gather_global_batch
    from contrastive.losses.functional import accuracy, collisions, infonce, infonce_from_logits
    from contrastive.losses.module import LossModule, ScaledLoss
    from contrastive.losses.wrapper import WrapperLoss
    from contrastive.pretrained import Pretrained, pretrained_spec, sources
    from contrastive.pretrained.duals import dual_spec, local_folder
    from contrastive.spec import ModelSpec, Tower

__all__ = [
    "CAPTION_TABLES",
    "INTERFACE",
    "SPLITS",
    "SPLIT_ALIASES",
    "BadRows",
    "BadSample",
    "BatchGroup",
    "Candidates",
    "Config",
    "ContrastiveError",
    "DataError",
    "Dataset",
    "Direction",
    "Encoder",
    "EncoderModule",
    "FileIndex",
    "HFText",
    "Head",
    "ImageSource",
    "ImageTransform",
    "Loss",
    "LossModule",
    "MissingExtra",
    "ModelSpec",
    "Negatives",
    "Preprocess",
    "Pretrained",
    "Purpose",
    "Registry",
    "Sample",
    "SampleList",
    "Samples",
    "Scaled",
    "ScaledLoss",
    "SpecError",
    "StoredImage",
    "TableRecord",
    "Timm",
    "Tower",
    "WeightsError",
    "WrapperLoss",
    "accuracy",
    "as_text",
    "check_no_missing_weights",
    "check_pair_counts",
    "choose_columns",
    "collisions",
    "datasets",
    "dual_spec",
    "dump_spec",
    "encoders",
    "find_weights",
    "gather_global_batch",
    "heads",
    "infonce",
    "infonce_from_logits",
    "json_schema",
    "leaves_folder",
    "load_spec",
    "loading_weights",
    "local_folder",
    "losses",
    "masked_mean",
    "matched_ids",
    "measure_out_dim",
    "name_list",
    "open_image",
    "pretrained_spec",
    "quiet_huggingface",
    "quoted",
    "read_table",
    "readable_folder",
    "require",
    "rows_of",
    "sources",
    "split_of",
    "text_of",
    "text_problem",
    "tokenizer_hash",
]

_HOMES = {
    # Configs: one frozen class a component; it imports torch in ``build`` only.
    "Config": "config.base",
    "Encoder": "encoders",
    "HFText": "encoders",
    "Timm": "encoders",
    "Head": "heads",
    "Loss": "losses",
    "Scaled": "losses",
    "Candidates": "losses",
    "Direction": "losses",
    "Negatives": "losses",
    "Dataset": "datasets",
    "Purpose": "datasets",
    "Pretrained": "pretrained",
    "ModelSpec": "spec",
    "Tower": "spec",
    # Registries: components by name; ``Registry`` makes a kind of your own.
    "Registry": "config.registry",
    "encoders": "encoders",
    "heads": "heads",
    "losses": "losses",
    "datasets": "datasets",
    "sources": "pretrained",
    # Specs as files, for tests.
    "load_spec": "config.yaml_files",
    "dump_spec": "config.yaml_files",
    "json_schema": "config.json_schema",
    # Errors, and optional libraries.
    "BadSample": "errors",
    "ContrastiveError": "errors",
    "DataError": "errors",
    "MissingExtra": "errors",
    "SpecError": "errors",
    "WeightsError": "errors",
    "require": "config.extras",
    # Encoder modules: preprocessing, pooling, weights.
    "EncoderModule": "encoders.module",
    "ImageTransform": "encoders.image",
    "ImageSource": "data.images",
    "StoredImage": "data.images",
    "open_image": "data.images",
    "as_text": "encoders.text",
    "tokenizer_hash": "encoders.text",
    "masked_mean": "encoders.pooling",
    "measure_out_dim": "encoders.huggingface",
    "check_no_missing_weights": "encoders.huggingface",
    "quiet_huggingface": "encoders.huggingface",
    "find_weights": "encoders.weights",
    "loading_weights": "encoders.weights",
    # Pretrained models of two towers.
    "pretrained_spec": "pretrained",
    "dual_spec": "pretrained.duals",
    "local_folder": "pretrained.duals",
    # Loss modules, and the batch over all ranks.
    "LossModule": "losses.module",
    "ScaledLoss": "losses.module",
    "WrapperLoss": "losses.wrapper",
    "BatchGroup": "distributed.global_batch",
    "gather_global_batch": "losses.execution",
    "accuracy": "losses.functional",
    "infonce": "losses.functional",
    "collisions": "losses.functional",
    "infonce_from_logits": "losses.functional",
    "check_pair_counts": "losses.backends.pair_labels",
    "matched_ids": "losses.backends.pair_labels",
    # Rows of datasets, and the bad ones.
    "Sample": "data.samples",
    "Samples": "data.samples",
    "Preprocess": "data.samples",
    "BadRows": "data.bad_rows",
    "SampleList": "datasets.single_modality",
    "rows_of": "data.samples",
    # Tables and files of datasets.
    "CAPTION_TABLES": "datasets.image_folder",
    "SPLITS": "datasets.splits",
    "SPLIT_ALIASES": "datasets.splits",
    "FileIndex": "datasets.captioned",
    "TableRecord": "datasets.text_tables",
    "choose_columns": "datasets.text_tables",
    "leaves_folder": "datasets.captioned",
    "name_list": "datasets.text_tables",
    "quoted": "datasets.text_tables",
    "read_table": "datasets.text_tables",
    "readable_folder": "datasets.text_tables",
    "split_of": "datasets.splits",
    "text_of": "datasets.text_tables",
    "text_problem": "datasets.text_tables",
}
"""By public name, its module below ``contrastive``."""


def __getattr__(name: str) -> Any:
    """Import ``name`` on first use (PEP 562)."""
    if name not in _HOMES:
        msg = f"module 'contrastive.interface' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"contrastive.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, none of which need be imported yet."""
    return __all__
