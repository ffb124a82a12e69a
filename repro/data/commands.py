"""`repro data check` and `repro data flist`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass
class DataCheck:
    """Verify a data set against its known layout and counts; exit status 1 where something is missing.

    Args:
        name: the data set: pack, cifar10, fashion-mnist, celeba, lol, raindrop, istd, gopro, reds, ffhq, cars, div2k,
            sid, imagenet, open-images
        root: its folder (default: the one of its name in REPRO_DATA, else in runs/data; the embedded pack takes none)
        headers: also open the header of every image
    """

    name: Positional[str]
    root: Path | None = None
    headers: bool = False

    def run(self) -> int:
        from repro.data.datasets import check

        report = check(self.name, self.root, headers=self.headers)
        print(report.text())
        return 1 if report.problems else 0


@dataclass
class DataFlist:
    """Write the list of a folder's images: one path per line, ordered by name, as the flist readers expect it.

    Args:
        folder: the folder; all levels below it are searched
        out: the list to write (default: FOLDER.flist beside the folder)
    """

    folder: Positional[Path]
    out: Path | None = None

    def run(self) -> int:
        from repro.data.flist import write_flist

        folder = Path(self.folder).absolute()
        out = self.out or folder.with_name(f"{folder.name}.flist")
        print(f"{out}: {write_flist(folder, out)} images")
        return 0
