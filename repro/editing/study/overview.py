"""This method's row of the README's figure: one photograph, three edits."""

from torch import Tensor

from repro.data import pack
from repro.data.images import center_crop, resize
from repro.editing.pipeline import EditingPipeline
from repro.editing.study.experiments import name_of

TITLE = "02 Multi-task editing: one network, its effects chosen by a vector of nine numbers"
NEEDS = (name_of("taught-long"),)
PHOTO, REFERENCE = "photos/monuments_brandenburgGate", "photos/monuments_petra"  # held out from every training


def tiles() -> dict[str, Tensor]:
    """Caption -> image (3, H, W) in [0, 1], the input first."""
    images = (pack.load(pack.picture(name)) for name in (PHOTO, REFERENCE))
    photo, reference = (center_crop(resize(image, 192), (192, 256)) for image in images)
    pipe = EditingPipeline.shipped()
    pipe.set_progress_bar_config(disable=True)
    edits = {
        "motion blur 0.6": {"blur": 0.6},
        "another photograph's colours": {"reference": reference},
        "blur, grain and colours in one pass": {"blur": 0.4, "grain": 0.1, "reference": reference, "exact": False},
    }
    made = {words: pipe(photo, **effects, seed=0, output_type="pt").images[0] for words, effects in edits.items()}
    return {"input": photo, **made}
