"""What a build of the benchmark consists of: the SHA-256 of each of its files, and what it was made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro.errors import ReproError

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """A frozen build.

    `version`   of the benchmark's definition.    `profile`  smoke, small or paper; "" for a build of one's own.
    `source`    "pack" or "reds", with its `settings` as plain values, and the `digest` of both and of its data.
    `block`     crops that were edited together, and lie in one file of the training split.
    `splits`    by name: "crops" in it, "definition", the SHA-256 of what is asked of which crop, and "flat": how many
                crops colour transfer found a channel flat in, by effect.
    `made with` versions of what computes and writes pictures.
    `files`     SHA-256 by path, the manifest itself left out.
    """

    version: int
    profile: str
    source: str
    settings: dict[str, Any]
    digest: str
    block: int
    splits: dict[str, dict[str, Any]]
    made_with: dict[str, str]
    files: dict[str, str]

    @property
    def total(self) -> str:
        """SHA-256 of all the above: one number that names the build."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """As it is stored."""
        return json.dumps({"total": self.total, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read(folder: Path) -> Manifest:
    """The manifest of a build. Raises `ReproError` where there is none, or one that was changed."""
    file = folder / NAME
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        total = held.pop("total")
        manifest = Manifest(**held)
        whole = manifest.total == total
    except FileNotFoundError as error:
        raise ReproError(f"{file}: missing; a build of the benchmark has one") from error
    except OSError as error:
        raise ReproError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReproError(f"{file}: not a manifest of the benchmark ({error})") from error
    if not whole:
        raise ReproError(f"{file}: changed (its contents have the total {manifest.total[:12]}…, it says {total[:12]}…)")
    return manifest


def compare(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What differs in the folder: one sentence for each file that is missing, changed or too many, by its path.

    Hidden files are left alone.
    """
    found = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    } - {NAME}
    out = {name: f"{folder / name}: missing" for name in sorted(manifest.files.keys() - found)}
    out |= {name: f"{folder / name}: not part of the build" for name in sorted(found - manifest.files.keys())}
    same = sorted(manifest.files.keys() & found)
    for name in tqdm(same, desc="SHA-256", unit="file", delay=1.0, leave=False):
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != manifest.files[name]:
            expected = manifest.files[name]
            out[name] = f"{folder / name}: changed (SHA-256 {digest[:12]}…, in the manifest {expected[:12]}…)"
    return out
