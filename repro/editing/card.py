"""The README.md that a build of the benchmark carries: what lies where, by what laws, in what order, whose pictures."""

from __future__ import annotations

from repro.editing.benchmark import COMPOSITES, SPLITS
from repro.editing.blur import LONGEST
from repro.editing.grain import RADII
from repro.editing.manifest import Manifest
from repro.editing.readers import Pack, Source

_LAYOUT = """\
`{pictures}` hold one folder a kind, with one 8-bit PNG a crop (256 levels, lossless):

| folder | what |
|---|---|
| `sharp/` | the source of every edit but inpainting, and inpainting's target |
| `blur/` `grain/` `colour/` `sharpen/` | the target of each single edit |
| `inpaint/` | the source of inpainting: the sharp crop with its hole filled with {fill:g} of [0, 1] |
| `mask/` | the hole: 255 in it, 0 elsewhere |
| `reference/` | the crop of the training split whose colours `colour/` takes |
| {composites} | the targets of the composites (validation and test) |

{shards}`parameters.csv` of each split says, for each crop, what every effect is asked for; its effects are the same
ones in its single edits and in its composites.

`manifest.json` holds the SHA-256 of each file. `repro data check editing-bench --root FOLDER` compares the files with
it, and makes parameters, holes and crops again from their source. What is asked of which crop is the same everywhere.
Pictures are computed in floating point: on a processor of another kind single values are rounded to the next level (at
sharpening's threshold they jump farther), and the total is another one then.
"""

_LAWS = """\
The same in training, validation and test, and independent of one another; the paper has none of them.

| parameter | law |
|---|---|
| beta, degree of blur | {beta} |
| sigma, radius of the grain in pixels | one of {radii}, equally likely |
| lambda, amount of sharpening | uniform in [1, 3] |
| mu, threshold of sharpening in [0, 1] | 0.1 u^2 with u uniform in [0, 1) |
| hole | free-form strokes with DeepFillv2's constants, scaled with the picture; its fraction is in the table |
| reference | any crop of the training split but the crop itself |

Every draw is keyed by (version, id): a crop's own do not depend on which others there are.

A model is trained on none of the effects or exactly one at a time; composites are asked for in evaluation alone.
"""

_ORDER = """\
Composites are made in the order {order}. A hole is cut into the source after that and never into a target: inpainting's
target is whole. Grain is {grain}. Colours are transferred by the means and deviations of {space} ({ratio} ratio); a
channel without deviation keeps it: {flat}.
"""

_CREDITS = """\
Every picture is cut from one photograph, resized and edited as told above, and stands under that photograph's licence;
adaptations of CC-BY-SA pictures are shared under the same licence. A crop's id begins with its photograph's; the
pictures in `reference/` are cut from the photograph that the reference's id names.

| photograph | author | licence | source |
|---|---|---|---|
"""


def text(source: Source, manifest: Manifest) -> str:
    """Markdown."""
    recipe, png = source.recipe, not any(name.endswith(".safetensors") for name in manifest.files)
    counts = ", ".join(f"{manifest.splits[name]['crops']:,} {name}" for name in SPLITS)
    sides = ", ".join(f"{source.side(name)}x{source.side(name)}" for name in SPLITS)
    shards = "" if png else "`train/` holds the same kinds as uint8 tensors (N, C, S, S) in safetensors files. "
    flat = [
        f"{count} crops of {name} ({effect})"
        for name in SPLITS
        for effect, count in manifest.splits[name]["flat"].items()
        if count
    ]
    longest = f"{recipe.longest:g} pixels" if recipe.longest else f"{LONGEST:g} of the crop's side"
    beta = f"uniform in [0, 1): the path of a shaken camera, as a fraction of the longest, {longest}"
    if source.name == "reds":
        beta = (
            "measured: the length of the motion that would differ as much from the sharp crop, as a fraction of "
            f"{LONGEST:g} of its side (`repro.editing.degree`)"
        )
    rendered = f"rendered with {recipe.samples} samples a pixel"
    parts = [
        f"# editing-bench, version {manifest.version}{f', {manifest.profile}' * bool(manifest.profile)}\n",
        f"Sharp crops and their five edits: {counts} crops of {sides} pixels; made from "
        f"{'REDS' if source.name == 'reds' else 'the photographs of this repository'}, digest {manifest.digest}.\n",
        "## Files\n",
        _LAYOUT.format(
            pictures="`, `".join(SPLITS if png else SPLITS[1:]),
            fill=recipe.fill,
            composites=" ".join(f"`{'+'.join(tasks)}/`" for tasks in COMPOSITES),
            shards=shards,
        ),
        "## What is asked\n",
        _LAWS.format(beta=beta, radii=", ".join(f"{radius:.3f}" for radius in RADII)),
        "## Order\n",
        _ORDER.format(
            order=", ".join(recipe.order),
            grain="the Gaussian field of the film's exact law" if recipe.grain == "field" else rendered,
            space=recipe.space,
            ratio=recipe.ratio,
            flat=", ".join(flat) or "there is none here",
        ),
        "## Whose pictures\n",
        _credits(source),
    ]
    return "\n".join(parts)


def _credits(source: Source) -> str:
    if not isinstance(source, Pack):
        return (
            "Frames of REDS (Nah et al., NTIRE 2019 Challenge on Video Deblurring and Super-Resolution: Dataset and "
            "Study), under the licence that its page states; the crops and their edits stand under the same.\n"
        )
    rows = [f"| {p.id} | {p.author} | {p.licence} | {p.source} |" for p in source.photos()]
    return _CREDITS + "\n".join(rows) + "\n"
