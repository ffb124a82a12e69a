"""`repro data check` and `repro data flist`."""

import os
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
    """

    name: Positional[str]
    root: Path | None = None

    def run(self) -> int:
        from repro.data import pack
        from repro.data.datasets import LAYOUTS, advice, check, home
        from repro.errors import one_of

        one_of("data set", self.name, ["pack", *sorted(LAYOUTS)])
        if self.name == "pack":
            root, title, problems = pack.PACK, "embedded images", pack.verify()
            found = [] if problems else ["every photograph, thumbnail and list has the SHA-256 that was committed"]
            again = "restore the files with `git checkout -- repro/data/pack`, or install the package again"
        else:
            found, problems = check(self.name, self.root)
            root, title = self.root or home(self.name), LAYOUTS[self.name].title
            again = advice(self.name, root)
        print(f"{self.name} ({title}) at {root}: {'incomplete or absent' if problems else 'complete'}")
        lines = [f"  ok       {line}" for line in found] + [f"  problem  {line}" for line in problems]
        print(*lines, *([f"  to do    {again}"] if problems else []), sep="\n")
        return 1 if problems else 0


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
        from repro.data.files import write_flist

        folder = Path(os.path.abspath(self.folder))  # without ".."
        out = self.out or folder.with_name(f"{folder.name}.flist")
        print(f"{out}: {write_flist(folder, out)} images")
        return 0
