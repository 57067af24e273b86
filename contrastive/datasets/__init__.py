"""Datasets: the interface, the registry, and what comes built in.

Config classes only; what reads files is imported in ``build()``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Protocol, Self, cast

from pydantic import Field, field_validator, model_validator

from contrastive.config.base import Config, PathField, PlaceField
from contrastive.config.bounds import Count
from contrastive.config.local_files import address_of
from contrastive.config.own_specs import OwnSwitch
from contrastive.config.registry import Registry
from contrastive.config.renamed import warn
from contrastive.data.samples import Samples  # noqa: TC001 - of a config class
from contrastive.prompts import Templates
from contrastive.prompts.class_sets import ClassSetName

Purpose = Literal["training", "evaluation"]
"""What samples are read for; some datasets draw one of several captions while training.

Example:
    >>> from typing import get_args
    >>> get_args(Purpose)
    ('training', 'evaluation')
"""


class SplitReader(Protocol):
    """Reads splits of a dataset, and once what they share."""

    def __call__(self, split: str, /, *, purpose: Purpose = "evaluation") -> Samples:
        """Return a split, as ``Dataset.build`` does."""
        ...


class Dataset(Config):
    """Samples of one modality or of several that belong together, in splits.

    Example:
        >>> class Squares(Dataset):
        ...     def build(self, split, *, purpose="evaluation"):
        ...         return rows
        >>> len(Squares().build("train"))
        2
    """

    kind: ClassVar[str] = "dataset"

    @abstractmethod
    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read one split.

        Args:
            split: ``train``, ``val``, ``test``, or several joined by ``+``.
            purpose: ``training`` may thin out captions; ``evaluation`` gives all of them.

        Raises:
            DataError: the files are not there or too much of them is bad.
        """


datasets = Registry(Dataset, group="contrastive.datasets")
"""Datasets by the name that a spec gives as ``type``.

Example:
    >>> datasets["lines"](file="texts.txt").holdout
    0.1
"""


@datasets.register("flickr30k")
class Flickr30k(Dataset):
    """Flickr30k and Flickr8k as their common copies have them: five captions an image, in splits.

    Unpack any copy of it in a folder, or take the copy of the Hugging Face hub. A row's id is the
    place of its image in the annotations, so the captions of one image are positives of each other.
    """

    source: Literal["folder", "hub"] = "folder"
    """folder: captions and images as files. hub: the Parquet files of repo, which hold both; the
    split is that of their column, and the hub's own split, which calls all of them test, is not
    looked at."""
    folder: PathField | None = Field(default=None, examples=["flickr30k"])
    """Where Flickr30k was unpacked; needed, and used, by source: folder."""
    repo: Annotated[str, Field(min_length=1)] = "nlphuji/flickr30k"
    """With source: hub, a dataset on the hub, or a local folder of its Parquet files, with the
    columns image, caption, split and filename."""
    revision: Annotated[str, Field(min_length=1)] = "refs/convert/parquet"
    """Branch, tag or commit of repo; by default where the hub keeps what it converted to Parquet.
    Code of a repository is never run."""
    annotations: PathField | None = None
    """The captions, relative to the folder: Karpathy's JSON, the CSV of the Hugging Face copy,
    Kaggle's results.csv or the original .token file. Found by its usual name."""
    images: PathField | None = None
    """The folder of images, relative to the folder; found by its usual name."""
    splits: PathField | None = None
    """Who is in train, val and test, if the annotations do not say, or to overrule them:
    Karpathy's JSON, the CSV of the Hugging Face copy, or a folder of lists such as
    flickr30k_train.txt, train.txt or Flickr_8k.trainImages.txt. Relative to the folder; found in it
    by these names."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Split by a hash of each image's name instead: the share of images in val, and again in test,
    for annotations without splits. The results do not compare with those on Karpathy's splits."""
    captions_per_image: Count = 2
    """Training uses the first so many captions of an image, evaluation uses all."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rows of a split that may be bad and left out."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.source == "folder" and self.folder is None:
            msg = "source 'folder' needs folder: where Flickr30k was unpacked; or set source: hub"
            raise ValueError(msg)
        of_files = ("annotations", "images", "splits", "holdout")
        given = [name for name in of_files if getattr(self, name) is not None]
        if self.source == "hub" and given:
            msg = f"{given[0]} is of source 'folder'; the hub's copy has its own inside"
            raise ValueError(msg)
        if self.splits and self.holdout is not None:
            msg = "splits and holdout both say the splits; give one of them"
            raise ValueError(msg)
        return self

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read the annotations and look for the images; nothing is decoded.

        Args:
            split: ``train`` (29,000 images), ``val`` (1,014), ``test`` (1,000), or several joined
                by ``+``.
            purpose: ``training`` keeps the first ``captions_per_image`` captions of an image.

        Raises:
            DataError: a file is missing or broken, the hub cannot be asked, nothing says the
                splits, or too many rows are bad.
            MissingExtra: the source is the hub; pyarrow or ``huggingface_hub`` is not installed.
        """
        return self._reader()(split, purpose=purpose)

    def _reader(self) -> SplitReader:
        if self.source == "hub":
            from contrastive.datasets.flickr30k.hub import reader
        else:
            from contrastive.datasets.flickr30k.reader import reader

        return reader(self)


@datasets.register("image-folder")
class ImageFolder(Dataset):
    """Your own images, with captions in a table, or each in a text file beside its image.

    A table is CSV, TSV, JSON lines, an array of JSON objects, Parquet, or the JSON of pandas, of
    COCO or of Karpathy. The splits are those of the split column; else of the folders train, val
    and test, each with its own table; else a hash of each image's name (or group) decides, always
    the same.
    """

    folder: PathField = Field(examples=["images"])
    """The images, in folders as you like; captions name them relative to it."""
    captions: PathField | None = None
    """The table of captions, relative to the folder; found as captions or metadata with the suffix
    .csv, .tsv, .jsonl, .json or .parquet, or captions.txt. With {split} in it, a table for each
    split: captions_{split}2017.json. "*.txt" or "*.caption" reads a text file beside each image, a
    caption a line, which is also done where there is no table."""
    images: PathField | None = None
    """The folder that captions name images relative to, itself relative to the folder, which it is
    if not given (images or Images in it are looked through, too); it may have {split} in it."""
    image_column: str | None = None
    """Path of the image; found as image, file_name, filename,
    filepath or images."""
    url_column: str | None = None
    """Addresses of images (http, https) in place of files, fetched when they are read; found as
    url, image_url or urls where there is no image column, which may have addresses, too."""
    private: OwnSwitch = False
    """Fetch from addresses that are not public, too, such as 10.0.0.1 or localhost."""
    cache_gb: Annotated[float, Field(gt=0, le=1_000_000)] = 100
    """What copies of images by address may have together in this machine's cache folder, in GB of
    10**9 bytes. It changes no result."""
    text_column: str | None = None
    """The caption, or in JSON lines a list of them; found as text, caption, title or
    captions, or in columns that are numbered, caption_1 and so on."""
    group_column: str | None = None
    """Rows with equal values are positives of each other; found as group or group_id. Without it,
    or where it is blank, they are the captions of one image."""
    group_by: Literal["name", "content"] = "name"
    """What makes captions those of one image, where no group is given: its name, or its content,
    for data that have copies of an image under several names. Each file is read once."""
    label_column: str | None = None
    """The class of the image, which may be blank; found as label."""
    split_column: str | None = None
    """train, val, test or a name of yours; found as split. validation, valid and dev mean val.
    Of this and the other columns that need not be, '' does without one."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the images in val, and again in test, where only the hash decides."""
    captions_per_image: Count | None = None
    """Training uses the first so many captions of an image; evaluation uses all."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rows of a split that may be bad and left out."""

    @model_validator(mode="after")
    def _has_one_column_of_images(self) -> Self:
        if self.url_column and self.image_column:
            msg = "image_column and url_column both say where the images are; give one of them"
            raise ValueError(msg)
        return self

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read the captions and look for the images; nothing is decoded, and nothing fetched.

        Args:
            split: ``train``, ``val``, ``test``, a name of the split column, or several joined
                by ``+``.
            purpose: ``training`` keeps the first ``captions_per_image`` captions of an image.

        Raises:
            DataError: a file is missing or broken, a column is missing, or too many rows are bad.
        """
        return self._reader()(split, purpose=purpose)

    def _reader(self) -> SplitReader:
        from contrastive.datasets.image_folder import reader

        return reader(self)


@datasets.register("webdataset")
class WebDataset(Dataset):
    """Images with captions in tar shards, in the format of WebDataset, here or in a storage.

    It is what img2dataset writes and open_clip reads, such as LAION, CC12M and DataComp. Members
    belong together if their names agree up to the first dot: 000012.jpg, 000012.txt, 000012.json.
    A column is a member by the end of its name, or a field of the .json. The splits are those of
    the split column; else of the shards' names or folders (cc3m-train-0001.tar, val/0001.tar); else
    a hash of each sample's key (or group) decides, always the same.
    """

    shards: PlaceField | list[PlaceField] = Field(examples=["shards"])
    """A tar file, a folder of them, a pattern, or a list of these: laion/{00000..00331}.tar,
    cc3m/*.tar, s3://bucket/{train,val}/*.tar. With {split} in it, the shards of each split. An
    address is read by fsspec: s3:// and gs:// need the extra remote, https:// needs aiohttp."""
    image_column: str | None = None
    """End of the image's name, or several as in jpg;png, of which the first that is there is taken;
    found as jpg, jpeg, png, webp, gif or bmp."""
    text_column: str | None = None
    """The caption, or in the .json a list of them; found as captions, txt, caption,
    text or title."""
    group_column: str | None = None
    """Samples with equal values are positives of each other; found as group or group_id. Without
    it, or where it is blank, they are the captions of one sample."""
    label_column: str | None = None
    """The class of the image, which may be blank; found as label."""
    split_column: str | None = None
    """train, val, test or a name of yours; found as split. validation, valid and dev mean val.
    Of this and the other columns that need not be, '' does without one."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the samples in val, and again in test, where only the hash decides."""
    captions_per_image: Count | None = None
    """Training uses the first so many captions of a sample; evaluation uses all."""
    window: Count | None = None
    """Training shuffles the rows among so many shards at a time, and the shards, new in each epoch:
    for remote shards of which not all have room in the cache. Without it, among all."""
    cache_gb: Annotated[float, Field(gt=0, le=1_000_000)] = 100
    """What copies of remote files may have together in this machine's cache folder, in GB of
    10**9 bytes. It changes no result."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rows of a split that may be bad and left out. A shard that ends early counts as
    many as it has fewer than the fullest one."""

    @field_validator("shards", mode="before")
    @classmethod
    def _are_files(cls, given: object) -> object:
        several = cast("list[object]", given) if isinstance(given, list) else [given]
        for each in several:
            if isinstance(each, str):
                if each.lstrip().startswith("pipe:"):
                    msg = "pipe: would run a command; give files, or addresses such as s3://b/0.tar"
                    raise ValueError(msg)
                address_of(each)
        if not several:
            msg = "no shards; give a tar file, or a folder of them"
            raise ValueError(msg)
        return cast("object", given)

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read what is kept of the shards, and the shards that are new; no image is read.

        Args:
            split: ``train``, ``val``, ``test``, a name of the split column, or several joined
                by ``+``.
            purpose: ``training`` keeps the first ``captions_per_image`` captions of a sample.

        Raises:
            DataError: a shard is missing or no tar file, a column is nowhere, or too many rows are
                bad.
            StorageError: a storage cannot be read.
        """
        return self._reader()(split, purpose=purpose)

    def _reader(self) -> SplitReader:
        from contrastive.datasets.shards.webdataset import reader

        return reader(self)


@datasets.register("class-folders", formerly={"pictures": "0.1"})
class ClassFolders(Dataset):
    """Images in a folder for each class, as ImageFolder of torchvision has them; or without any.

    A class is called like its folder, with spaces for underscores. The splits are folders train,
    val and test, each with the folders of the classes, if there is one of them; else a hash of each
    image's path decides, always the same.
    """

    folder: PathField = Field(examples=["animals"])
    """The images, in folders by class, such as animals/cat; without, they have no classes."""
    captions: Annotated[Templates | None, Field(min_length=1)] = None
    """Templates with {} for the class, or the name of a set such as imagenet-7, that make captions
    to train on: each image has one of them, and the images of a class are positives of each other.
    Evaluation reads no captions, but measures zero-shot accuracy."""
    classes: ClassSetName | None = None
    """A set of class names such as imagenet: folders are called by its WordNet ids (or other ids),
    numbers or names, and classes by its names."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the images in val, and again in test, where only the hash decides."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the rows of a split that may be bad and left out."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Find the images; nothing is decoded.

        Args:
            split: ``train``, ``val``, ``test``, or several joined by ``+``.
            purpose: ``training`` has captions, if they are asked for.

        Raises:
            DataError: the folder is missing, or has no images in that split, or none in folders of
                which to make captions.
            SpecError: a folder is called by no class of ``classes``.
        """
        from contrastive.datasets.class_folders import read

        return read(self, split, purpose=purpose)


@datasets.register("lines")
class Lines(Dataset):
    """Texts, one a line, for two views of each; a hash of the line decides on its split.

    Texts on one line, with tabs between them, say the same: they are positives of each other.
    """

    file: PathField = Field(examples=["sentences.txt"])
    """A text file in UTF-8."""
    holdout: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the lines in val, and again in test."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the texts of a split that may be bad and left out."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> Samples:
        """Read the file.

        Args:
            split: ``train``, ``val``, ``test``, or several joined by ``+``.
            purpose: makes no difference.

        Raises:
            DataError: the file is missing or broken, or has no texts in that split.
        """
        del purpose
        from contrastive.datasets.single_modality import read_texts

        return read_texts(self, split)


def __getattr__(name: str) -> type[Dataset]:
    if name != "Pictures":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    warn("Pictures is now ClassFolders")
    return ClassFolders


# files of their own, which need what stands above
from contrastive.datasets.mix.config import Mix as Mix  # noqa: E402
from contrastive.datasets.tables.config import Table as Table  # noqa: E402
