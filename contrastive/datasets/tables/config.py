"""The config of tables of any size."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from contrastive.config.base import PathField
from contrastive.config.bounds import Count
from contrastive.config.own_specs import OwnSwitch
from contrastive.data.samples import Samples  # noqa: TC001 - of a config class
from contrastive.datasets import Dataset, Purpose, SplitReader, datasets


@datasets.register("table")
class Table(Dataset):
    """Tables of any size: Parquet, Arrow, CSV or JSON, or a dataset of the Hugging Face hub.

    Images are inside, as bytes, or files that the table names; a table of texts alone has none.
    Rows are read by index: an image when it is needed, out of its row group or the mapped file. The
    splits are those of the split column; else of the files' names, as in
    ``train-00000-of-00002.parquet`` or ``validation/0000.parquet``; else a hash decides.
    """

    files: PathField | list[PathField] | None = Field(default=None, examples=["data/*.parquet"])
    """A table (.parquet, .arrow, .feather, .csv, .tsv, .jsonl, .json), a folder of them, a pattern
    such as data/*.parquet, or a list of these. With {split} in it, files for each split:
    data/{split}-*.parquet. With repo, those of its Parquet files that are read; all, if not
    given."""
    repo: Annotated[str, Field(min_length=1)] | None = None
    """A dataset of the Hugging Face hub, such as nlphuji/flickr30k, of which the Parquet files are
    read, or a local folder of them. Code of a repository is never run."""
    revision: Annotated[str, Field(min_length=1)] = "refs/convert/parquet"
    """Branch, tag or commit of repo; by default where the hub keeps what it converted to Parquet;
    main for a repository that holds Parquet itself."""
    images: PathField | None = None
    """The folder that the image column names files in; by default that of the table."""
    image_column: str | None = None
    """Images as bytes, as the hub's {bytes, path}, or paths; found as image, img, jpg, png,
    file_name, filename, filepath, image_path or path."""
    url_column: str | None = None
    """Addresses of images (http, https) in place of files, fetched when they are read; image_column
    may have addresses, too."""
    private: OwnSwitch = False
    """Fetch from addresses that are not public, too, such as 10.0.0.1 or localhost."""
    cache_gb: Annotated[float, Field(gt=0, le=1_000_000)] = 100
    """What copies of images by address may have together in this machine's cache folder, in GB of
    10**9 bytes. It changes no result."""
    text_column: str | None = None
    """The caption, or a list of them; found as text, caption, title, captions or sentence, or in
    columns that are numbered, caption_1 and so on."""
    group_column: str | None = None
    """Integers or strings; rows with equal ones are positives of each other. Found as group or
    group_id. Without it, or where it is blank, they are the captions of one row, or of one file."""
    label_column: str | None = None
    """The class of the image, which may be blank; found as label."""
    split_column: str | None = None
    """train, val, test or a name of yours; found as split. validation, valid and dev mean val.
    Of this and the other columns, '' does without one; here it does without the files' names,
    too, so that a hash decides."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the rows in val, and again in test, where only the hash decides: that of the group,
    the image's path, the row's number, or the text where there are no images."""
    captions_per_image: Count | None = None
    """Training uses the first so many captions of an image; evaluation uses all."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rows of a split that may be bad and left out."""

    @field_validator("files", mode="before")
    @classmethod
    def _no_frame(cls, given: object) -> object:
        from contrastive.data.frames import library_of

        if library_of(given):  # pydantic would take the names of its columns for paths
            msg = f"a {type(given).__name__} is no file; write it to a Parquet file, and give that"
            raise ValueError(msg)
        return given

    @model_validator(mode="after")
    def _has_files(self) -> Self:
        if self.files in (None, []) and self.repo is None:
            msg = "needs files: a table, a folder or a pattern; or repo: a dataset of the hub"
            raise ValueError(msg)
        if self.url_column and self.image_column:
            msg = "image_column and url_column both say where the images are; give one of them"
            raise ValueError(msg)
        return self

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read all columns but the images; nothing is decoded.

        Args:
            split: ``train``, ``val``, ``test``, a name of the split column, or several joined
                by ``+``.
            purpose: ``training`` keeps the first ``captions_per_image`` captions of an image.

        Raises:
            DataError: a file or a column is missing, a file is broken, the hub cannot be asked, or
                too many rows are bad.
            MissingExtra: pyarrow is not installed, or, for the hub, ``huggingface_hub``.
        """
        return self._reader()(split, purpose=purpose)

    def _reader(self) -> SplitReader:
        from contrastive.datasets.tables.table import reader

        return reader(self)
