"""`repro restore`: photographs of any size restored by the network for use of a method, or by one of your own."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from repro.errors import ReproError


@dataclass
class Restore:
    """Restore a photo, or every photo of a folder, with a shipped network or one trained on own pairs."""

    photo: Annotated[Path, tyro.conf.Positional]
    """the image, or a folder of images; of any size (large ones go through in tiles)"""
    task: str | None = None
    """what the image suffers from: lowlight, raindrops, deblur, jpeg; of adir sr4, sr8, box, gauss, colour"""
    method: str | None = None
    """ucdir, rddm or adir; the first of them that has the task where none is named"""
    checkpoint: Path | None = None
    """instead of a method and a task: a network that `repro train my.toml` wrote"""
    steps: int | None = None
    """sampling steps; the method's own number where none is named"""
    adapt: str | None = None
    """adir alone: to neighbours (the default), to the image itself, or none"""
    neighbours: Path | None = None
    """adir alone: a folder of images to retrieve neighbours from, instead of the gallery that ships"""
    seed: int = 0
    """of the noise: the same command gives the same image"""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """what to write: .png (with its provenance, see `repro whence`), .jpg, .webp; a folder for a folder
    (default: restored-PHOTO.png, or restored-FOLDER)"""

    def run(self) -> int:
        from tqdm import tqdm

        from repro.use.methods import chosen

        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ReproError(f"--steps is {self.steps}; accepted: 1 to 1000")
        target, places = self._places()  # everything that can be known before the work
        options = {"adapt": self.adapt, "neighbours": self.neighbours}
        restore, steps, about = chosen(self.method, self.task, self.checkpoint, **options)
        print(f"network: {about}", flush=True)
        bar = tqdm(places, unit="img", desc="restore", file=sys.stdout, disable=len(places) == 1)
        failed = [message for photo, out in bar if (message := self._one(restore, self.steps or steps, photo, out))]
        for message in failed:
            print(f"repro restore: {message}", file=sys.stderr)
        done = len(places) - len(failed)
        print(f"written: {target}" + (f", {done} of {len(places)} images" if self.photo.is_dir() else ""))
        return 1 if failed else 0

    def _one(self, restore: Any, steps: int, photo: Path, out: Path) -> str:
        """Restore one photo; in a folder, what is wrong with it is returned, and the others go on."""
        from tqdm import tqdm

        from repro.data.images import check_writable, write_image
        from repro.data.inputs import read_srgb
        from repro.engine.provenance import Provenance, save_png

        try:
            image, note = read_srgb(photo)
            check_writable(out, (image.shape[2], image.shape[1]))
            if note:
                tqdm.write(note, file=sys.stdout)
            result = restore(image, steps, self.seed)
            if out.suffix.lower() == ".png":
                save_png(result, out, Provenance((), self.command(photo, out)))
            else:
                write_image(out, result)
        except ReproError as error:
            if not self.photo.is_dir():
                raise
            return str(error)
        return ""

    def _places(self) -> tuple[Path, list[tuple[Path, Path]]]:
        """Where results go, and each photo with its result's place. Raises `ReproError` where that cannot be."""
        from repro.data.flist import list_images

        folder = self.photo.is_dir()
        name = f"restored-{self.photo.name if folder else self.photo.stem + '.png'}"
        target = self.out or self.photo.absolute().with_name(name)
        if target.exists() and self.photo.exists() and target.samefile(self.photo):
            raise ReproError(f"{target}: is the {'folder' if folder else 'image'} that was given; choose another place")
        if not folder:
            return target, [(self.photo, target)]
        if target.suffix or target.is_file():
            raise ReproError(f"{target}: {self.photo} is a folder; accepted: a folder for the results")
        places: dict[Path, Path] = {}
        for photo in list_images(self.photo):
            out = target / photo.relative_to(self.photo).with_suffix(".png")
            if target.absolute() in photo.absolute().parents:
                continue  # results of an earlier run, in a folder inside this one
            if out in places:
                raise ReproError(
                    f"{photo}: its result would overwrite that of {places[out].name}; rename one of the two"
                )
            places[out] = photo
        return target, [(photo, out) for out, photo in places.items()]

    def command(self, photo: Path, out: Path) -> str:
        """What makes this image again."""
        from repro.engine.provenance import shell

        words = ["repro", "restore", str(photo)]
        for name in ("task", "method", "checkpoint", "steps", "adapt", "neighbours"):
            value = getattr(self, name)
            words += [] if value is None else [f"--{name}", str(value)]
        return shell([*words, "--seed", str(self.seed), "-o", str(out)])
