"""The widgets where readers meet them: JupyterLab in headless Chromium runs a notebook, a key moves a slider, and the
image is the one that the headless function draws; and once more after the kernel was restarted.

Without Chromium this is skipped aloud; REPRO_REQUIRE_BROWSER=1 makes that a failure. REPRO_BROWSER_CHROMIUM names
another executable.
"""

import base64
import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("REPRO_BROWSER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PATIENCE = 180  # seconds for anything: a machine may have other work
# the first explorer that has a slider, its image and its slider, in ipywidgets 8
EXPLORER = ".jp-OutputArea .widget-vbox:has(img.widget-image):has(.noUi-handle)"
PICTURE = f"{EXPLORER} img.widget-image"
HANDLE = f"{EXPLORER} .noUi-handle"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> str:
    if CHROMIUM:
        return CHROMIUM
    message = "BROWSER TEST NOT RUN: no chromium on PATH (apt-get install chromium), so nobody saw the widgets"
    if os.environ.get("REPRO_REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    print(f"\n*** {message} ***", file=sys.__stderr__, flush=True)
    pytest.skip(message)


@pytest.fixture
def lab(tmp_path) -> Iterator[tuple[str, str, Path]]:
    """A real JupyterLab on a free loopback port with settings of its own: (address, token, folder of notebooks)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token, folder = secrets.token_hex(16), tmp_path / "notebooks"
    folder.mkdir()
    # "python3" must be this interpreter, not whatever kernel the machine's user has registered: a home of its own
    kernel = tmp_path / ".local/share/jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
        "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight stay in the page
    }
    for name, values in settings.items():
        path = tmp_path / f".jupyter/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    foreign = ("JUPYTER", "IPYTHON", "XDG_", "REPRO_HEADLESS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly", "--LabApp.collaborative=False",
    ]  # fmt: skip
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(lambda: _answers(f"{address}/api/status?token={token}"), lambda: (tmp_path / "lab.log").read_text())
        yield address, token, folder
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its kernels too
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        log.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def _wait(ready: Callable[[], bool], explain: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"waited {PATIENCE} s in vain. {explain()}")
        time.sleep(0.1)


def _equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


class Reader:
    """What a person does: run, look, press keys. `outside` lists requests that would have left the machine."""

    def __init__(self, page, address: str, token: str) -> None:
        self.page, self.address, self.token = page, address, token
        self.outside: list[str] = []
        page.route("**/*", self._stay_home)

    def _stay_home(self, route) -> None:
        url = route.request.url
        if url.startswith(("http:", "https:", "ws:", "wss:")) and not url.startswith(self.address):
            self.outside.append(url)
            route.abort()
        else:
            route.continue_()

    def open(self, name: str) -> None:
        self.page.goto(f"{self.address}/lab/tree/{name}?token={self.token}&reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.page.get_by_text("| Idle").wait_for()  # before the kernel is there JupyterLab would ask for one

    def menu(self, *path: str) -> None:
        for index, label in enumerate(path):
            place = ".lm-MenuBar-itemLabel" if index == 0 else ".lm-Menu-itemLabel"
            self.page.locator(place, has_text=label).first.click()

    def picture(self, selector: str = PICTURE) -> np.ndarray | None:
        """The first such image as the browser holds it, (H, W, 3); None while there is none."""
        script = """async (selector) => {
            const image = document.querySelector(selector);
            if (!image || !image.complete || !image.src) return null;
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(''));
        }"""
        data = self.page.evaluate(script, selector)
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) if data else None

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        _wait(ready, lambda: f"{what}; the page says: {self.page.inner_text('body')[-1500:]}")

    def restart_and_run_all(self) -> None:
        self.menu("Kernel", "Restart Kernel and Run All Cells")
        self.page.locator(".jp-Dialog button", has_text="Restart").click()

    def press(self, key: str) -> None:
        """A key on the first slider."""
        handle = self.page.locator(HANDLE).first
        handle.scroll_into_view_if_needed()
        handle.focus()
        self.page.keyboard.press(key)

    def sees_controls_beside_the_picture(self) -> None:
        """All controls left of the whole image, both on the screen at once."""
        self.page.locator(PICTURE).first.scroll_into_view_if_needed()
        picture, *handles = (
            place.bounding_box() for place in (self.page.locator(PICTURE).first, *self.page.locator(HANDLE).all())
        )
        screen = self.page.viewport_size
        assert picture["y"] >= 0 and picture["y"] + picture["height"] <= screen["height"]
        assert picture["x"] + picture["width"] <= screen["width"]
        for handle in handles:
            assert handle["x"] + handle["width"] <= picture["x"] and 0 <= handle["y"] <= screen["height"]


@pytest.fixture
def reader(chromium, lab) -> Iterator[tuple[Reader, Path]]:
    from playwright.sync_api import sync_playwright

    address, token, folder = lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(1000 * PATIENCE)
            yield Reader(page, address, token), folder
        finally:
            browser.close()


NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb"))
# appended to a copy of the notebook: what the headless function draws where the controls stand now (`type`, since
# `isinstance` asks weak references that other libraries hold to dead objects)
ASK = """
import gc
from repro.ui.controls import Explorer, show_png
from repro.ui.live import LiveExplorer
for moved in [o for o in gc.get_objects() if type(o) is LiveExplorer and o.params != o.defaults]:
    alike = {name: getattr(moved, name) for name in ("view", "display")}
    show_png(Explorer(moved.fn, moved.controls, **alike).png(**moved.params))
"""


def _prepared(path: Path) -> nbformat.NotebookNode:
    """The notebook without outputs up to its first widget, as "to play only" says, with the question at its end."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first = next(i for i, cell in enumerate(code) if "explore(" in cell.source)
    notebook.cells = [*code[: first + 1], nbformat.v4.new_code_cell(ASK.strip())]
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_widget_of_each_notebook(reader, path):
    """Played from the first cells alone, with the weights that ship: controls and image side by side, a slider moves
    the image, and so it does after the kernel's restart."""
    person, folder = reader
    nbformat.write(_prepared(path), folder / path.name)
    last = person.page.locator(".jp-Notebook .jp-CodeCell").last
    answer = ".jp-Notebook .jp-CodeCell:last-of-type .jp-RenderedImage img"

    def run_and_move(when: str) -> None:
        person.wait_until(lambda: person.picture() is not None, f"the first widget {when}")
        person.wait_until(lambda: last.inner_text().startswith("["), f"the last cell {when}")
        person.wait_until(lambda: "*" not in last.locator(".jp-InputPrompt").inner_text(), f"its end {when}")
        person.sees_controls_beside_the_picture()
        assert person.page.locator(EXPLORER).first.locator("img.widget-image").count() == 1
        before = person.picture()
        person.press("ArrowRight")
        person.wait_until(lambda: not _equal(person.picture(), before), f"another image {when}")
        last.locator(".cm-content").click()
        person.page.keyboard.press("Control+Enter")
        person.wait_until(lambda: _equal(person.picture(), person.picture(answer)), f"the headless image {when}")

    person.open(path.name)
    person.menu("Run", "Run All Cells")
    run_and_move("first")
    person.restart_and_run_all()
    person.wait_until(lambda: person.picture() is None, "the old widget gone")
    run_and_move("restarted")
    assert person.outside == []
