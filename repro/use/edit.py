"""`repro edit`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repro.errors import ReproError, whole, within

EFFECTS = ("blur", "grain", "reference", "mask", "sharpen")
FILM_SAMPLES = 200  # points a pixel: their noise is a third of the grain's or less


@dataclass
class Edit:
    """Edit a photo with the shipped network: any of the five effects, of any strength, in one pass."""

    photo: Annotated[Path, tyro.conf.Positional]
    """the photo to edit, of any size from 16 pixels a side"""
    blur: float | None = None
    """degree of motion blur, 0 to 1: the same share of the image at every size from 192 pixels"""
    grain: float | None = None
    """radius of the film grain, 0 to 0.1 pixels"""
    reference: Path | None = None
    """an image whose colours the photo takes: their mean and contrast, by Reinhard's formula"""
    mask: Path | None = None
    """an image of the photo's size, white where it is to be filled anew; the rest stays as it is"""
    sharpen: tuple[float, float] | None = None
    """amount of sharpening, 1 to 3, and its threshold, 0 to 0.1"""
    film: float | None = None
    """radius of exact film grain, 0.1 to 10 pixels, drawn over the result; about a minute for 512 x 512 pixels"""
    seed: int = 0
    """seed of the noise; the same command gives the same image"""
    steps: int = 5
    """number of DDIM steps; where they are few, grain takes two more"""
    eta: float = 0.0
    """noise added at each step: 0 is none, 1 as much as in DDPM"""
    profile: str = "small"
    """profile of the network: small, whose weights ship, or smoke"""
    variant: str = "taught-long"
    """variant of the network: taught-long, mult or palette"""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """the file to write: .png (holds its command, see `repro provenance`), .jpg or .webp (default: edited-PHOTO.png)"""

    def run(self) -> int:
        from repro.data.grain import film_grain
        from repro.data.images import check_writable, read_srgb
        from repro.editing.vector import EditingVector
        from repro.engine.provenance import save_result, shell

        effects = {name: getattr(self, name) for name in EFFECTS}
        if not (edits := any(value not in (None, 0) for value in effects.values())) and self.film is None:
            raise ReproError(f"nothing to do; accepted: at least one of --{', --'.join((*EFFECTS, 'film'))}, above 0")
        if self.film is not None:
            within("--film, in pixels (smaller is --grain)", self.film, 0.1, 10)
        vector = EditingVector(self.blur, self.grain, bool(self.reference), bool(self.mask), self.sharpen)
        if self.variant.startswith("single-") and vector.active != (self.variant.removeprefix("single-"),):
            raise ReproError(f"{self.variant} is trained for one effect: got {', '.join(vector.active) or 'none'}")
        whole("--steps", self.steps, 1, 1000)
        whole("--seed", self.seed, 0, 2**64 - 1)
        within("--eta", self.eta, 0, 1)
        photo, note = read_srgb(self.photo)
        effects["reference"], other = read_srgb(self.reference) if self.reference else (None, "")
        for text in filter(None, (note, other)):
            print(text)
        # What can be known of the result's place is known before the work.
        out = self.out or self.photo.with_name(f"edited-{self.photo.stem}.png")
        check_writable(out, (photo.shape[2], photo.shape[1]))
        given = [file for file in (self.photo, self.reference, self.mask) if file and file.exists()]
        if out.exists() and any(out.samefile(file) for file in given):
            raise ReproError(f"{out}: is one of the inputs; accepted: another place")

        edited = photo
        if edits:
            from repro.editing.pipeline import EditingPipeline

            pipe = EditingPipeline.shipped(self.profile, self.variant)
            pipe.set_progress_bar_config(desc="edit", unit="step", file=sys.stdout)
            settings = {"num_inference_steps": self.steps, "eta": self.eta, "seed": self.seed, "output_type": "pt"}
            edited = pipe(photo, **effects, **settings).images[0]
        if self.film is not None:
            print(f"film grain takes some minutes a megapixel, here for {photo[0].numel() / 1e6:.1f}", flush=True)
            edited = film_grain(edited[None], self.film, seed=self.seed, ids=[0], n_samples=FILM_SAMPLES)[0]
        save_result(edited, out, shell("edit", self.photo, vars(self), out))
        print(f"written: {out}")
        return 0
