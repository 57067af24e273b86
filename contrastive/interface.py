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
    from contrastive.config.yaml_files import dump as dump_spec
    from contrastive.config.yaml_files import load as load_spec
    from contrastive.data.bad_rows import BadRows
    from contrastive.data.images import ImageSource, StoredImage, open_image
    from contrastive.data.samples import Preprocess, Sample, Samples, rows_of
    from contrastive.datasets import Dataset, Purpose, datasets
    from contrastive.datasets.captioned import ImageFiles as FileIndex
    from contrastive.datasets.captioned import leaves as leaves_folder
    from contrastive.datasets.image_folder import NAMES as CAPTION_TABLES
    from contrastive.datasets.single_modality import Listed as SampleList
    from contrastive.datasets.splits import ALIASES as SPLIT_ALIASES
    from contrastive.datasets.splits import SPLITS, split_of
    from contrastive.datasets.text_tables import Record as TableRecord
    from contrastive.datasets.text_tables import choose_columns, read_table, text_of
    from contrastive.datasets.text_tables import flaw_of as text_problem
    from contrastive.datasets.text_tables import listed as name_list
    from contrastive.datasets.text_tables import readable as readable_folder
    from contrastive.datasets.text_tables import shown as quoted
    from contrastive.distributed.global_batch import BatchGroup
    from contrastive.encoders import Encoder, HFText, Timm, encoders
    from contrastive.encoders.huggingface import check_whole as check_no_missing_weights
    from contrastive.encoders.huggingface import measure as measure_out_dim
    from contrastive.encoders.huggingface import quietly as quiet_huggingface
    from contrastive.encoders.image import ImageTransform
    from contrastive.encoders.module import EncoderModule
    from contrastive.encoders.pooling import masked_mean
    from contrastive.encoders.text import as_text
    from contrastive.encoders.text import content_hash as tokenizer_hash
    from contrastive.encoders.weights import find as find_weights
    from contrastive.encoders.weights import loading as loading_weights
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
    from contrastive.losses.backends.pair_labels import insist_on_pairs as check_pair_counts
    from contrastive.losses.backends.pair_labels import matched_ids
    from contrastive.losses.execution import whole as gather_global_batch
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
    "Config": "config.base:Config",
    "Encoder": "encoders:Encoder",
    "HFText": "encoders:HFText",
    "Timm": "encoders:Timm",
    "Head": "heads:Head",
    "Loss": "losses:Loss",
    "Scaled": "losses:Scaled",
    "Candidates": "losses:Candidates",
    "Direction": "losses:Direction",
    "Negatives": "losses:Negatives",
    "Dataset": "datasets:Dataset",
    "Purpose": "datasets:Purpose",
    "Pretrained": "pretrained:Pretrained",
    "ModelSpec": "spec:ModelSpec",
    "Tower": "spec:Tower",
    # Registries: components by name; ``Registry`` makes a kind of your own.
    "Registry": "config.registry:Registry",
    "encoders": "encoders:encoders",
    "heads": "heads:heads",
    "losses": "losses:losses",
    "datasets": "datasets:datasets",
    "sources": "pretrained:sources",
    # Specs as files, for tests.
    "load_spec": "config.yaml_files:load",
    "dump_spec": "config.yaml_files:dump",
    "json_schema": "config.json_schema:json_schema",
    # Errors, and optional libraries.
    "BadSample": "errors:BadSample",
    "ContrastiveError": "errors:ContrastiveError",
    "DataError": "errors:DataError",
    "MissingExtra": "errors:MissingExtra",
    "SpecError": "errors:SpecError",
    "WeightsError": "errors:WeightsError",
    "require": "config.extras:require",
    # Encoder modules: preprocessing, pooling, weights.
    "EncoderModule": "encoders.module:EncoderModule",
    "ImageTransform": "encoders.image:ImageTransform",
    "ImageSource": "data.images:ImageSource",
    "StoredImage": "data.images:StoredImage",
    "open_image": "data.images:open_image",
    "as_text": "encoders.text:as_text",
    "tokenizer_hash": "encoders.text:content_hash",
    "masked_mean": "encoders.pooling:masked_mean",
    "measure_out_dim": "encoders.huggingface:measure",
    "check_no_missing_weights": "encoders.huggingface:check_whole",
    "quiet_huggingface": "encoders.huggingface:quietly",
    "find_weights": "encoders.weights:find",
    "loading_weights": "encoders.weights:loading",
    # Pretrained models of two towers.
    "pretrained_spec": "pretrained:pretrained_spec",
    "dual_spec": "pretrained.duals:dual_spec",
    "local_folder": "pretrained.duals:local_folder",
    # Loss modules, and the batch over all ranks.
    "LossModule": "losses.module:LossModule",
    "ScaledLoss": "losses.module:ScaledLoss",
    "WrapperLoss": "losses.wrapper:WrapperLoss",
    "BatchGroup": "distributed.global_batch:BatchGroup",
    "gather_global_batch": "losses.execution:whole",
    "accuracy": "losses.functional:accuracy",
    "infonce": "losses.functional:infonce",
    "collisions": "losses.functional:collisions",
    "infonce_from_logits": "losses.functional:infonce_from_logits",
    "check_pair_counts": "losses.backends.pair_labels:insist_on_pairs",
    "matched_ids": "losses.backends.pair_labels:matched_ids",
    # Rows of datasets, and the bad ones.
    "Sample": "data.samples:Sample",
    "Samples": "data.samples:Samples",
    "Preprocess": "data.samples:Preprocess",
    "BadRows": "data.bad_rows:BadRows",
    "SampleList": "datasets.single_modality:Listed",
    "rows_of": "data.samples:rows_of",
    # Tables and files of datasets.
    "CAPTION_TABLES": "datasets.image_folder:NAMES",
    "SPLITS": "datasets.splits:SPLITS",
    "SPLIT_ALIASES": "datasets.splits:ALIASES",
    "FileIndex": "datasets.captioned:ImageFiles",
    "TableRecord": "datasets.text_tables:Record",
    "choose_columns": "datasets.text_tables:choose_columns",
    "leaves_folder": "datasets.captioned:leaves",
    "name_list": "datasets.text_tables:listed",
    "quoted": "datasets.text_tables:shown",
    "read_table": "datasets.text_tables:read_table",
    "readable_folder": "datasets.text_tables:readable",
    "split_of": "datasets.splits:split_of",
    "text_of": "datasets.text_tables:text_of",
    "text_problem": "datasets.text_tables:flaw_of",
}
"""By public name, the module below ``contrastive`` and the name there."""


def __getattr__(name: str) -> Any:
    """Import ``name`` on first use (PEP 562)."""
    if name not in _HOMES:
        msg = f"module 'contrastive.interface' has no attribute {name!r}"
        raise AttributeError(msg)
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(f"contrastive.{module}"), attribute)


def __dir__() -> list[str]:
    """List the public names, none of which need be imported yet."""
    return __all__
