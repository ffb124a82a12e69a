"""`repro data check` and `repro data flist`."""

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
    imagenet, open-images"""
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
