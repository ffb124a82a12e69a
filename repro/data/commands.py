"""`repro data check`, `repro data build` and `repro data flist`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class DataCheck:
    """Verify a data set against its known layout and counts; exit status 1 where something is missing."""

    name: Annotated[str, tyro.conf.Positional]
    """the data set: pack, cifar10, fashion-mnist, celeba, lol, raindrop, istd, gopro, reds, ffhq, cars, div2k, sid,
    imagenet, open-images; or what `repro data build` made: editing-bench"""
    root: Path | None = None
    """its folder (default: the one of its name in REPRO_DATA, else in runs/data; the embedded pack takes none)"""
    headers: bool = False
    """also open the header of every image"""

    def run(self) -> int:
        from repro.data.known import check

        report = check(self.name, self.root, headers=self.headers)
        print(report.text())
        return 0 if report.ok else 1


@dataclass
class DataBuild:
    """Make a data set of this repository's own, with a manifest that `repro data check` compares it with."""

    name: Annotated[str, tyro.conf.Positional]
    """the data set: editing-bench"""
    profile: str = "small"
    """small: from the embedded pack. paper: from REDS. smoke: a few pictures of the pack"""
    root: Path | None = None
    """the folder of REDS (default: reds in REPRO_DATA, else in runs/data); the other profiles take none"""
    out: Path | None = None
    """the folder to make (default: one of its name, version and profile in REPRO_DATA, else in runs/data)"""
    png: bool = False
    """the training split as pictures too, not as safetensors"""
    film: bool = False
    """render every grain, as the paper does, where the build has the field of their law: with Monte-Carlo noise, and
    about a thousand times slower on a CPU"""

    def run(self) -> int:
        from repro.data.builders import builder

        print(
            builder(self.name).build(profile=self.profile, root=self.root, out=self.out, png=self.png, film=self.film)
        )
        return 0


@dataclass
class DataFlist:
    """Write the list of a folder's images: one path per line, ordered by name, as the flist readers expect it."""

    folder: Annotated[Path, tyro.conf.Positional]
    """the folder; all levels below it are searched"""
    out: Path | None = None
    """the list to write (default: FOLDER.flist beside the folder)"""

    def run(self) -> int:
        from repro.data.flist import write_flist

        folder = Path(self.folder)
        out = self.out or folder.absolute().with_name(f"{folder.absolute().name}.flist")
        print(f"{out}: {write_flist(folder, out)} images")
        return 0
