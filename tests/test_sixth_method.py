"""A sixth method, as repro/README.md says: what is written here is all it takes to be trained, recorded and judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny import clone

REPRO = Path(__file__).resolve().parents[1] / "repro"

TOY = {
    "__init__.py": '"""The mean of noisy numbers, learned."""\n',
    "study/__init__.py": """
from repro.engine.checkpoint import register

register(__name__, notebook="06_toy")
""",
    "study/experiments.py": """
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from repro.engine.train import Recipe
from repro.engine.checkpoint import Experiment


class Mean(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.value.expand_as(x)


class Numbers:
    ids = tuple(f"number {i}" for i in range(64))
    def loss(self, model, indices, noise):
        x = 0.5 + 0.1 * noise("numbers").normal(())
        return (model(x) - x).square()


about = {"room": "toy", "task_name": "mean", "variant": "main", "data": "numbers", "profile": "small", "seed": 0}
about |= {"recipe": Recipe(images=2048, batch=16, lr=0.02, ema=100, precision="fp32"), "summary": "a mean"}
EXPERIMENTS = [Experiment("toy-mean-main-s0", ships=True, build=Mean, task=Numbers, **about)]
""",
    "study/measure.py": """
from repro.engine.checkpoint import load_checkpoint
from repro.engine.rng import KeyedNoise
from repro.engine.evaluation import Sample


def sample(experiment, cell, profile):
    return Sample(n=20, k=5, data="numbers")


def measure(experiment, cell, k, profile):
    learned = load_checkpoint(experiment).value if experiment.startswith("toy-") else 0.0
    x = 0.5 + 0.1 * KeyedNoise(1, range(k or 20), "test").normal(())
    return {"error": (x - learned).abs().tolist()}
""",
    "study/grid.toml": """
[[table]]
name = "toy_mean"
caption = "A mean"
columns = [{ name = "error", metric = "error", protocol = "absolute", better = "lower" }]
rows = [{ name = "zero", experiment = "baseline-zero" }, { name = "ours", experiment = "toy-mean-main-s0" }]
""",
    "study/claims.toml": """
[[claim]]
id = "T1"
paper = "a paper"
text = "learning beats zero"
evidence = "Table 1"
rule = "less"
metric = "error"
left = { experiment = "toy-mean-main-s0" }
right = { experiment = "baseline-zero" }
""",
}
SCRIPT = """
from repro.cli import main
from repro.engine.study import Lesson

for line in ("list toy", "train toy-mean-main-s0", "evaluate toy --full", "evaluate toy", "claims toy"):
    assert main(line.split()) == 0, line
lesson = Lesson("toy", "06_toy", "small", 0.1)
print(lesson.tables(lesson.recheck().verified)["toy_mean"].to_markdown())
"""


def test_a_toy_is_trained_recorded_tabled_judged_and_listed(tmp_path):
    """In a clone that links to this one: only the toy is added, and its line to methods.py."""
    assert sum(len(text.strip().splitlines()) for text in TOY.values()) < 60
    (package := clone(tmp_path) / "repro").mkdir()
    for path in REPRO.iterdir():
        if path.name not in ("methods.py", "__pycache__"):
            (package / path.name).symlink_to(path)
    (package / "methods.py").write_text((REPRO / "methods.py").read_text("utf-8") + "import repro.toy.study\n", "utf-8")
    for name, text in TOY.items():
        (package / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (package / "toy" / name).write_text(text.lstrip(), encoding="utf-8")

    environment = (
        os.environ | dict.fromkeys(("PYTHONPATH", "REPRO_HOME"), str(tmp_path)) | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "toy-mean-main-s0" in done.stdout and "untrained" in done.stdout
    assert "2 of 2 records re-evaluated agree" in done.stdout and "| T1 | learning beats zero |" in done.stdout
    assert "**reproduced**" in done.stdout and "re-evaluated from the shipped weights" in done.stdout
    first, second = map(json.loads, (tmp_path / "figures/records/toy.jsonl").read_text().splitlines())
    assert {"versions", "hardware", "threads", "commit", "date", "wall_s", "peak_mb"} <= set(first["environment"])
    assert second["environment"]["peak_mb"] > 64 and second["environment"]["wall_s"] >= 0
    assert (tmp_path / "checkpoints/toy-mean-main-s0/card.json").exists()
    assert (tmp_path / "build/small/tables/toy_mean.csv").exists()
