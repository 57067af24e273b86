"""All that a plugin imports: ``from contrastive.interface import Encoder, EncoderModule``.

A name is imported on first use (PEP 562), so that importing this module, or a config from it,
imports no torch. These names are public; ``INTERFACE`` rises when one is removed or changes its
contract. A plugin's tests also import ``contrastive`` and ``contrastive.testing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.config.lazy_names import lazy_names
from contrastive.version import INTERFACE

if TYPE_CHECKING:
    from contrastive.config.base import Config
    from contrastive.config.extras import require
    from contrastive.config.json_schema import json_schema
    from contrastive.config.registry import Registry
    from contrastive.config.yaml_files import dump_spec
    from contrastive.data.bad_rows import BadRows
    from contrastive.data.images import ImageSource, StoredImage, open_image
    from contrastive.data.sample_lists import sample_list
    from contrastive.data.samples import Preprocess, Sample, Samples, rows_of
    from contrastive.data.storage.folders import readable_folder
    from contrastive.datasets import Dataset, Purpose, datasets
    from contrastive.datasets.file_index import FileIndex, leaves_folder
    from contrastive.datasets.known_files import CAPTION_TABLES
    from contrastive.datasets.quoting import name_list, quoted
    from contrastive.datasets.single_modality import RowList
    from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, split_of
    from contrastive.datasets.tables.columns import cells_of, choose_columns, text_of
    from contrastive.datasets.tables.forms import read_table
    from contrastive.datasets.tables.text_decoding import text_problem
    from contrastive.datasets.tables.text_tables import TableRecord
    from contrastive.distributed.global_batch import BatchGroup
    from contrastive.encoders import Encoder, HFText, Timm, encoders
    from contrastive.encoders.huggingface import check_no_missing_weights, quiet_huggingface
    from contrastive.encoders.image_transform import ImageTransform
    from contrastive.encoders.module import EncoderModule
    from contrastive.encoders.pooling import masked_mean
    from contrastive.encoders.text import as_text, tokenizer_hash
    from contrastive.encoders.trial import measure_out_dim
    from contrastive.encoders.weights import find_weights, loading_weights
    from contrastive.errors import (
        BadSample,
        ContrastiveError,
        DataError,
        MissingExtra,
        SpecError,
        UnknownSplit,
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
    from contrastive.recipe.callback import Callback, RunInfo
    from contrastive.recipe.trackers import Tracker, trackers
    from contrastive.spec import ModelSpec, Tower, load_spec

__all__ = [
    "CAPTION_TABLES",
    "INTERFACE",
    "SPLITS",
    "SPLIT_ALIASES",
    "BadRows",
    "BadSample",
    "BatchGroup",
    "Callback",
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
    "RowList",
    "RunInfo",
    "Sample",
    "Samples",
    "Scaled",
    "ScaledLoss",
    "SpecError",
    "StoredImage",
    "TableRecord",
    "Timm",
    "Tower",
    "Tracker",
    "UnknownSplit",
    "WeightsError",
    "WrapperLoss",
    "accuracy",
    "as_text",
    "cells_of",
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
    "sample_list",
    "sources",
    "split_of",
    "text_of",
    "text_problem",
    "tokenizer_hash",
    "trackers",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        # Configs: one frozen class a component; it imports torch in ``build`` only.
        "config.base": "Config",
        "encoders": "Encoder HFText Timm encoders",
        "heads": "Head heads",
        "losses": "Loss Scaled Candidates Direction Negatives losses",
        "datasets": "Dataset Purpose datasets",
        "pretrained": "Pretrained sources pretrained_spec",
        "recipe.trackers": "Tracker trackers",
        "recipe.callback": "Callback RunInfo",
        "spec": "ModelSpec Tower load_spec",
        # Registries: components by name; ``Registry`` makes a kind of your own.
        "config.registry": "Registry",
        # Specs as files, for tests.
        "config.yaml_files": "dump_spec",
        "config.json_schema": "json_schema",
        # Errors, and optional libraries.
        "errors": "BadSample ContrastiveError DataError MissingExtra SpecError UnknownSplit "
        "WeightsError",
        "config.extras": "require",
        # Encoder modules: preprocessing, pooling, weights.
        "encoders.module": "EncoderModule",
        "encoders.image_transform": "ImageTransform",
        "data.sample_lists": "sample_list",
        "data.images": "ImageSource StoredImage open_image",
        "encoders.text": "as_text tokenizer_hash",
        "encoders.pooling": "masked_mean",
        "encoders.trial": "measure_out_dim",
        "encoders.huggingface": "check_no_missing_weights quiet_huggingface",
        "encoders.weights": "find_weights loading_weights",
        # Pretrained models of two towers.
        "pretrained.duals": "dual_spec local_folder",
        # Loss modules, and the batch over all ranks.
        "losses.module": "LossModule ScaledLoss",
        "losses.wrapper": "WrapperLoss",
        "distributed.global_batch": "BatchGroup",
        "losses.execution": "gather_global_batch",
        "losses.functional": "accuracy infonce collisions infonce_from_logits",
        "losses.backends.pair_labels": "check_pair_counts matched_ids",
        # Rows of datasets, and the bad ones.
        "data.storage.folders": "readable_folder",
        "data.samples": "Sample Samples Preprocess rows_of",
        "data.bad_rows": "BadRows",
        "datasets.single_modality": "RowList",
        # Tables and files of datasets.
        "datasets.known_files": "CAPTION_TABLES",
        "datasets.splits": "SPLITS SPLIT_ALIASES split_of",
        "datasets.file_index": "FileIndex leaves_folder",
        "datasets.tables.text_tables": "TableRecord",
        "datasets.tables.columns": "cells_of choose_columns text_of",
        "datasets.quoting": "name_list quoted",
        "datasets.tables.text_decoding": "text_problem",
        "datasets.tables.forms": "read_table",
    },
)
