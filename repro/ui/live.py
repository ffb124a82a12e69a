"""The live `explore`: the only module that knows ipywidgets, and only what its versions 7.7 and 8 share."""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets
from ipywidgets import HTML, Button, HBox, Layout, Textarea, VBox

from repro import paths
from repro.errors import ReproError
from repro.ui.controls import SEED_MAX, Choice, Control, Explorer, Seed, Slider, Toggle, Upload, parse_all, show_small
from repro.ui.pictures import png

COLUMN = 350  # pixels: the controls' column, so that a 1280 px screen has room for an image of 500 beside it


class LiveExplorer(Explorer):
    """Controls at the left, one image at the right that is replaced in place.

    `widgets[name]`, `preset_buttons`, `save_button`, `image`, `message`, `command_box` and `python_box` are public.
    `error` keeps the last exception with its traceback, of which the reader sees one sentence.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.error: Exception | None = None
        self._quiet = False
        self._default = self.picture()
        wide = Layout(max_width="100%", object_fit="contain", align_self="flex-start")
        self.image = ipywidgets.Image(value=png(self._default), format="png", layout=wide)
        self.message = HTML("")
        self.widgets = {name: _widget(name, control) for name, control in self.controls.items()}
        for widget in self.widgets.values():
            widget.observe(lambda change: self._quiet or self._draw(), names="value")
        self.preset_buttons = [_button(title, partial(self.set, **preset)) for title, preset in self.presets.items()]
        self.save_button = _button("save image", self._save)
        texts, width = self.texts(), Layout(width="98%")
        self.command_box, self.python_box = (Textarea(value=t, rows=t.count("\n") + 2, layout=width) for t in texts)
        left = VBox(self._rows(), layout=Layout(width=f"{COLUMN}px", flex="0 0 auto"))
        right = VBox([self.message, self.image], layout=Layout(flex="1 1 auto", min_width="0"))
        beside = HBox([left, right], layout=Layout(align_items="flex-start"))
        titles = {"copy as papermill command": self.command_box, "copy as Python": self.python_box}
        boxes = {title: box for title, box in titles.items() if box.value}
        copied = ipywidgets.Accordion(children=list(boxes.values()), selected_index=None)
        for place, title in enumerate(boxes):
            copied.set_title(place, title)
        note = HTML(_text("Below: the default image, which a saved notebook keeps."))
        self.box = VBox([beside, copied, note] if boxes else [beside, note])

    def _rows(self) -> list[ipywidgets.Widget]:
        """One line a control; a switch stands in the line of the slider that follows it."""
        rows: list[ipywidgets.Widget] = []
        if self.preset_buttons:
            rows.append(HBox(self.preset_buttons, layout=Layout(flex_flow="row wrap")))
        switch = None
        for name, widget in self.widgets.items():
            control = self.controls[name]
            if isinstance(control, Seed):
                further = _button("next", lambda at=widget: setattr(at, "value", (at.value + 1) % 2**31))
                rows.append(HBox([widget, further]))
            elif switch is not None and isinstance(control, Slider):
                switch.layout.width, widget.layout.width = "92px", f"{COLUMN - 100}px"
                rows[-1] = HBox([switch, widget])
            else:
                rows.append(widget)
            switch = widget if isinstance(control, Toggle) else None
        return [*rows, self.save_button]

    @property
    def params(self) -> dict[str, Any]:
        """The controls' values now, as `fn` gets them."""
        return parse_all(self.controls, {name: widget.value for name, widget in self.widgets.items()})

    def set(self, **params: Any) -> None:
        """Move these controls and no other, draw once. An upload stays: a browser lets nobody fill it in."""
        self._quiet = True
        try:
            for name, value in params.items():
                if not isinstance(self.controls[name], Upload):
                    self.widgets[name].value = self.controls[name].parse(value)
        finally:
            self._quiet = False
        self._draw()

    @contextmanager
    def _reporting(self, doing: str) -> Iterator[None]:
        """What is being done above the image, or the error."""
        self.error, self.message.value = None, _text(doing)
        try:
            yield
        except Exception as error:
            self.error, self.message.value = error, _text(error)

    def _draw(self) -> None:
        """One new image, or in its place a sentence that says why there is none."""
        with self._reporting("drawing …"):
            params = self.params
            self.command_box.value, self.python_box.value = self.texts(**params)
            if (data := self.png(**params)) != bytes(self.image.value):
                self.image.value = data
            self.message.value = ""
        self.image.layout.display = "none" if self.error else ""

    def _save(self) -> None:
        """Write the image (of `save`, where there is one) to a new file in build/, and say where it is."""
        with self._reporting("saving …"):
            folder, stem = paths.build() / "saved", Path(self.command.notebook).stem if self.command else "picture"
            path = next(path for n in range(1, 10**6) if not (path := folder / f"{stem}-{n}.png").exists())
            paths.write_bytes(path, png(self.saved(**self.params)))
            self.message.value = _text(f"saved: {path}")

    def show(self) -> None:
        """Display the widget, and below it the default image as a saved notebook keeps it."""
        from IPython.display import display

        display(self.box)
        show_small(self._default)


def _text(what: str | Exception) -> str:
    """A line in grey; of an error, in red, its first line with its kind unless it was written for readers."""
    if isinstance(what, str):
        return f'<span style="color:#666">{html.escape(what)}</span>'
    first = (str(what).strip().splitlines() or [""])[0]
    first = first if isinstance(what, ReproError) else f"{type(what).__name__}: {first}".rstrip(": ")
    return f'<span style="color:#b3261e">{html.escape(first)}</span>'


def _button(title: str, action: Callable[[], Any]) -> Button:
    button = Button(description=title, layout=Layout(width="auto", align_self="flex-start"))
    button.on_click(lambda _: action())
    return button


def _widget(name: str, control: Control) -> ipywidgets.Widget:
    label, layout = control.label or name, Layout(width="220px" if isinstance(control, Seed) else f"{COLUMN - 10}px")
    line = {"description": label, "style": {"description_width": "initial"}, "layout": layout}
    if isinstance(control, Seed):
        return ipywidgets.BoundedIntText(value=control.default, max=SEED_MAX, continuous_update=False, **line)
    if isinstance(control, Slider):
        kind = ipywidgets.IntSlider if control.integer else ipywidgets.FloatSlider
        decimals = len(f"{control.step:.9f}".rstrip("0").partition(".")[2])  # 0.05 -> 2, 0.5 -> 1
        line |= {} if control.integer else {"readout_format": f".{decimals}f"}
        limits = {"value": control.default, "min": control.min, "max": control.max, "step": control.step}
        return kind(**limits, **line, continuous_update=False)  # one image per rest of the slider
    if isinstance(control, Choice):
        return ipywidgets.Dropdown(options=list(control.options), value=control.default, **line)
    if isinstance(control, Toggle):
        return ipywidgets.Checkbox(value=control.default, description=label, indent=False)
    return ipywidgets.FileUpload(accept="image/*", multiple=False, description=label, layout=Layout(width="auto"))
