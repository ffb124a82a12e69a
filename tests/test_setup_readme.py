"""README.md: short, its numbers are those of figures/, its links lead somewhere, its snippets run."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from repro.cli import main
from repro.data import pack
from repro.engine import front
from repro.errors import ReproError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def block(text: str, name: str) -> str:
    return re.search(rf"<!-- {name}:begin -->(.*)<!-- {name}:end -->", text, flags=re.DOTALL)[1]


def test_results_are_those_of_figures():
    wanted = front.rendered(TEXT, ROOT)
    assert block(TEXT, "results") == block(wanted, "results"), "`python -m repro.engine.front` brings it up to date"
    links = re.compile(r"\]\((\S+)\)")
    assert links.findall(block(TEXT, "notebooks")) == links.findall(block(wanted, "notebooks"))


@pytest.mark.parametrize("page", ["README.md", "figures/README.md", "repro/README.md"])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_snippets_run_as_printed(tmp_path, monkeypatch):
    photo = next(p for p in pack.photos("test"))
    Image.open(photo.path).resize((160, 120)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    section = TEXT.split("## Use it")[1].split("## Where")[0]
    made = []
    for kind, code in re.findall(r"```(sh|python)\n(.*?)```", section, flags=re.DOTALL):
        if kind == "sh":
            for line in code.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == ".venv/bin/repro" and main(arguments) == 0
        else:
            exec(compile(code, "README.md", "exec"), {})
        (new,) = [p for p in tmp_path.iterdir() if p.name != "photo.jpg"]
        assert Image.open(new).size == (160, 120)
        made.append((kind, new.name))
        shutil.move(new, tmp_path.parent / f"{len(made)}-{new.name}")
    assert len(made) >= 2


def test_a_line_a_method_with_the_papers_difference_and_ours(tmp_path):
    head, part = "id,part,room,text,verdict,estimate,low,high\n", "low light: below SM-Res"
    rows = f'R2,"{part}",rddm,x,reproduced,-10.5,-11.5,-9.5\nR2,other,rddm,x,weaker,1,,\n'
    (tmp_path / "claims.csv").write_text(head + rows)
    (rddm,) = front.results(tmp_path).splitlines()[2:]
    # the report's Table 1: 15.56 - 23.14 dB
    assert "| −7.6 dB | −10.5 ± 1.0 dB | reproduced; R2: 1 of 2 | 1 reproduced, 1 weaker |" in rddm
    (tmp_path / "claims.csv").write_text(head + rows.replace("R2", "R9"))
    with pytest.raises(ReproError, match="the headline of rddm names a part"):
        front.results(tmp_path)
