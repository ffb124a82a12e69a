"""The layouts of the data sets that `repro data check` knows, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from repro.data.images import SUFFIXES


@dataclass(frozen=True)
class Part:
    """Files of one kind.

    Attributes:
        label: what to call them.
        pattern: glob, relative to the root.
        count: how many there are; None: any number but none.
        suffixes: accepted suffixes, lower case.
        optional: not an error where there is none; where all parts are, one of them is needed.
        folders: how many folders they lie in, where that is known.
        partner: label of the part whose files pair with these.
        key: regular expression on the relative path; its groups name the pair. Empty: the stem.
        magic: for IDX files, the big-endian integers at the start.
    """

    label: str
    pattern: str
    count: int | None
    suffixes: tuple[str, ...] = SUFFIXES
    optional: bool = False
    folders: int | None = None
    partner: str = ""
    key: str = ""
    magic: tuple[int, ...] = ()

    @property
    def images(self) -> bool:
        return self.suffixes == SUFFIXES

    @property
    def expected(self) -> str:
        return "at least one file" if self.count is None else f"{self.count:,} {'file' if self.count == 1 else 'files'}"

    @property
    def naming(self) -> str:
        return f"names are expected to match {self.key}"

    def key_of(self, relative: str) -> str | None:
        """What names the pair of a file; None where the file's name is not of the expected form."""
        if not self.key:
            return relative.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        match = re.fullmatch(self.key, relative)
        return "/".join(match.groups()) if match else None


@dataclass(frozen=True)
class Layout:
    """A data set: title, its project page, what to get there, its parts; `folder` is its own in `repro.paths.data()`,
    where that is not called by the data set's name."""

    title: str
    page: str
    get: str
    parts: tuple[Part, ...]
    folder: str = ""

    @property
    def any_of(self) -> bool:
        """Whether one of the parts is enough, whichever."""
        return all(part.optional for part in self.parts)

    @property
    def needed(self) -> tuple[Part, ...]:
        """The parts that it cannot do without; all, where one of them is enough."""
        return tuple(part for part in self.parts if self.any_of or not part.optional)

    def part(self, label: str) -> Part:
        """The part of that label."""
        return next(part for part in self.parts if part.label == label)


def _pair(first: str, second: str, count: int | None, *, optional: bool = False, key: str = "") -> tuple[Part, Part]:
    """Two folders of pictures that pair up."""
    return (
        Part(first, f"{first}/*", count, optional=optional, partner=second, key=key),
        Part(second, f"{second}/*", count, optional=optional, key=key),
    )


def _frames(split: str, count: int, first: str, second: str) -> tuple[Part, Part]:
    """GoPro: one folder a sequence, the kind of picture below it."""
    key = rf"{split}/([^/]+)/[^/]+/([^/]+)\.\w+"
    return (
        Part(f"{split} {first}", f"{split}/*/{first}/*", count, partner=f"{split} {second}", key=key),
        Part(f"{split} {second}", f"{split}/*/{second}/*", count, key=key),
    )


def _reds(split: str, sequences: int) -> tuple[Part, Part]:
    key = rf"{split}/{split}_\w+/(\d{{3}})/(\d{{8}})\.png"
    sharp, blur = f"{split}/{split}_sharp", f"{split}/{split}_blur"
    count = 100 * sequences
    return (
        Part(blur, f"{blur}/*/*", count, folders=sequences, partner=sharp, key=key),
        Part(sharp, f"{sharp}/*/*", count, folders=sequences, key=key),
    )


def _idx(name: str, *magic: int) -> Part:
    return Part(name, f"{name}*", 1, suffixes=(".gz", ""), magic=magic)


def _text(name: str, *, optional: bool = False) -> Part:
    return Part(name, name, 1, suffixes=(".txt",), optional=optional)


_RAIN = r"[^/]+/[^/]+/(\d+)_(?:rain|clean)\.\w+"
_EXPOSURES = r"Sony/(?:short|long)/(\d{5})_\d+_[\d.]+s\.\w+"

LAYOUTS: dict[str, Layout] = {
    "cifar10": Layout(
        "CIFAR-10, binary version, five training files and a test file of 10,000 pictures each",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-binary.tar.gz",
        (
            Part("data_batch", "data_batch_*.bin", 5, suffixes=(".bin",)),
            Part("test_batch", "test_batch.bin", 1, suffixes=(".bin",)),
        ),
        folder="cifar-10-batches-bin",
    ),
    "fashion-mnist": Layout(
        "Fashion-MNIST, 60,000 + 10,000 images",
        "https://github.com/zalandoresearch/fashion-mnist",
        "the four idx files",
        (
            _idx("train-images-idx3-ubyte", 2051, 60000, 28, 28),
            _idx("train-labels-idx1-ubyte", 2049, 60000),
            _idx("t10k-images-idx3-ubyte", 2051, 10000, 28, 28),
            _idx("t10k-labels-idx1-ubyte", 2049, 10000),
        ),
    ),
    "celeba": Layout(
        "CelebFaces Attributes, aligned and cropped",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        "img_align_celeba.zip and list_eval_partition.txt",
        (
            Part("img_align_celeba", "img_align_celeba/*", 202_599),
            _text("list_eval_partition.txt"),
            _text("list_attr_celeba.txt", optional=True),
        ),
    ),
    "lol": Layout(
        "LOL, low-light pairs",
        "https://daooshee.github.io/BMVC2018website/",
        "LOLdataset.zip",
        (*_pair("our485/low", "our485/high", 485), *_pair("eval15/low", "eval15/high", 15)),
    ),
    "raindrop": Layout(
        "RainDrop",
        "https://github.com/rui1996/DeRaindrop",
        "train.zip and test_a.zip (results are reported on test_a, not test_b)",
        (
            *_pair("train/data", "train/gt", 861, key=_RAIN),
            *_pair("test_a/data", "test_a/gt", 58, key=_RAIN),
            *_pair("test_b/data", "test_b/gt", 249, optional=True, key=_RAIN),
        ),
    ),
    "istd": Layout(
        "ISTD: shadow picture (A), shadow mask (B), shadow-free picture (C)",
        "https://github.com/DeepInsight-PCALab/ST-CGAN",
        "ISTD_Dataset",
        (
            *_pair("train/train_A", "train/train_C", 1330),
            Part("train/train_B", "train/train_B/*", 1330, partner="train/train_A"),
            *_pair("test/test_A", "test/test_C", 540),
            Part("test/test_B", "test/test_B/*", 540, partner="test/test_A"),
        ),
    ),
    "gopro": Layout(
        "GoPro (GOPRO_Large), the linear-response blur folder, not blur_gamma",
        "https://seungjunnah.github.io/Datasets/gopro",
        "GOPRO_Large.zip",
        (*_frames("train", 2103, "blur", "sharp"), *_frames("test", 1111, "blur", "sharp")),
    ),
    "reds": Layout(
        "REDS, 240 training and 30 validation sequences of 100 frames (the test ground truth is withheld)",
        "https://seungjunnah.github.io/Datasets/reds",
        "train_sharp.zip, train_blur.zip, val_sharp.zip and val_blur.zip",
        (*_reds("train", 240), *_reds("val", 30)),
    ),
    "ffhq": Layout(
        "FFHQ, 70,000 aligned faces",
        "https://github.com/NVlabs/ffhq-dataset",
        "images1024x1024 with the download_ffhq.py there (thumbnails128x128 does for crops of 128 pixels and less)",
        (
            Part("images1024x1024", "images1024x1024/**/*", 70_000, suffixes=(".png",), optional=True),
            Part("thumbnails128x128", "thumbnails128x128/**/*", 70_000, suffixes=(".png",), optional=True),
        ),
    ),
    "cars": Layout(
        "Stanford Cars, test pictures; the training pictures where they are wanted",
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (no longer served; copies keep these names)",
        "cars_test.tgz",
        (
            Part("cars_test", "cars_test/*", 8041, suffixes=(".jpg",)),
            Part("cars_train", "cars_train/*", 8144, suffixes=(".jpg",), optional=True),
        ),
    ),
    "div2k": Layout(
        "DIV2K, high-resolution pictures",
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/",
        "DIV2K_train_HR.zip and DIV2K_valid_HR.zip",
        (
            Part("DIV2K_train_HR", "DIV2K_train_HR/*", 800),
            Part("DIV2K_valid_HR", "DIV2K_valid_HR/*", 100),
        ),
    ),
    "sid": Layout(
        "See-in-the-Dark, Sony subset, raw files",
        "https://cchen156.github.io/SID.html",
        "Sony.zip with its three lists",
        (
            Part("Sony/short", "Sony/short/*", 2697, suffixes=(".arw",), partner="Sony/long", key=_EXPOSURES),
            Part("Sony/long", "Sony/long/*", 231, suffixes=(".arw",), key=_EXPOSURES),
            _text("Sony_train_list.txt"),
            _text("Sony_val_list.txt"),
            _text("Sony_test_list.txt"),
        ),
    ),
    "imagenet": Layout(
        "ImageNet (ILSVRC2012), validation pictures; the training pictures where they are needed",
        "https://www.image-net.org/",
        "ILSVRC2012_img_val.tar",
        (
            Part("val", "val/**/*", 50_000, suffixes=(".jpeg", ".jpg")),
            Part("train", "train/*/*", 1_281_167, suffixes=(".jpeg", ".jpg"), optional=True),
        ),
    ),
    "open-images": Layout(
        "Open Images, any subset as a retrieval pool",
        "https://storage.googleapis.com/openimages/web/index.html",
        "any of its image subsets (the validation pictures are a practical start)",
        (Part("pictures", "**/*", None),),
    ),
}
