"""The live `explore`: the only module that knows ipywidgets, and only what its versions 7.7 and 8 share."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import ipywidgets

from repro import paths
from repro.errors import ReproError
from repro.ui.controls import SEED_MAX, Choice, Control, Seed, Slider, Toggle, Upload, uploaded
from repro.ui.explore import Explorer, show_small
from repro.ui.pictures import png

COLUMN = 350  # pixels: the controls' column, so that a 1280 px screen has room for a picture of 500 beside it


def _layout(**settings: str) -> ipywidgets.Layout:
    return ipywidgets.Layout(**settings)


class LiveExplorer(Explorer):
    """Controls at the left, one image at the right that is replaced in place.

    `widgets[name]`, `preset_buttons`, `next_seed`, `save_button`, `image`, `message`, `command_box` and `python_box`
    are public. `error` keeps the last exception with its traceback, of which the reader sees one sentence.
    """

    live = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.error: Exception | None = None
        self._quiet = False
        self._default = self.picture()
        wide = _layout(max_width="100%", object_fit="contain", align_self="flex-start")
        self.image = ipywidgets.Image(value=png(self._default), format="png", layout=wide)
        self.message = ipywidgets.HTML("")
        self.widgets = {name: _widget(name, control) for name, control in self.controls.items()}
        for name, widget in self.widgets.items():
            widget.observe(lambda change, name=name: self._changed(name), names="value")
        self.preset_buttons = [
            _button(title, lambda _, preset=preset: self.set(**preset)) for title, preset in self.presets.items()
        ]
        self.next_seed: ipywidgets.Button | None = None
        self.save_button = _button("save picture", lambda _: self._save())
        self.command_box = _to_copy(self.command_text())
        self.python_box = _to_copy(self.python_text())
        left = ipywidgets.VBox(self._rows(), layout=_layout(width=f"{COLUMN}px", flex="0 0 auto"))
        right = ipywidgets.VBox([self.message, self.image], layout=_layout(flex="1 1 auto", min_width="0"))
        boxes = {"copy as papermill command": self.command_box, "copy as Python": self.python_box}
        boxes = {title: box for title, box in boxes.items() if box.value}
        copied = ipywidgets.Accordion(children=list(boxes.values()), selected_index=None)
        for place, title in enumerate(boxes):
            copied.set_title(place, title)
        beside = ipywidgets.HBox([left, right], layout=_layout(align_items="flex-start"))
        note = ipywidgets.HTML(_grey("Below: the default picture, which a saved notebook keeps."))
        self.box = ipywidgets.VBox([beside, copied, note] if boxes else [beside, note])

    def _rows(self) -> list[ipywidgets.Widget]:
        """One line a control; a switch stands in the line of the slider that follows it."""
        rows: list[ipywidgets.Widget] = []
        if self.preset_buttons:
            rows.append(ipywidgets.HBox(self.preset_buttons, layout=_layout(flex_flow="row wrap")))
        switch = None
        for name, widget in self.widgets.items():
            control, line = self.controls[name], [widget]
            if isinstance(control, Seed):
                self.next_seed = _button(
                    "next", lambda _, widget=widget: setattr(widget, "value", (widget.value + 1) % (SEED_MAX + 1))
                )
                line.append(self.next_seed)
            if switch is not None and isinstance(control, Slider):
                switch.layout.width, widget.layout.width = "92px", f"{COLUMN - 100}px"
                rows[-1] = ipywidgets.HBox([switch, widget])
            else:
                rows.append(ipywidgets.HBox(line) if len(line) > 1 else widget)
            switch = widget if isinstance(control, Toggle) else None
        return [*rows, self.save_button]

    @property
    def params(self) -> dict[str, Any]:
        """What the controls say now, as `fn` gets it."""
        return {
            name: uploaded(widget.value) if isinstance(self.controls[name], Upload) else widget.value
            for name, widget in self.widgets.items()
        }

    def set(self, **params: Any) -> None:
        """Move these controls and no other, draw once. An upload stays: a browser lets nobody fill it in."""
        self._quiet = True
        try:
            for name, value in params.items():
                control = self.controls[name]
                if not isinstance(control, Upload):
                    self.widgets[name].value = control.parse(value)
        finally:
            self._quiet = False
        self._draw()

    def _changed(self, name: str) -> None:
        control, widget = self.controls[name], self.widgets[name]
        if not isinstance(control, Upload) and widget.value != control.snap(widget.value):
            widget.value = control.snap(widget.value)  # comes back here with the grid's number
            return
        if not self._quiet:
            self._draw()

    def _draw(self) -> None:
        """One new picture, or in its place a sentence that says why there is none."""
        params = self.params
        self.message.value = _grey("drawing …")
        try:
            data = self.png(**params)
        except Exception as error:
            self.error, self.image.layout.display = error, "none"
            self.message.value = _red(error)
        else:
            self.error, self.image.layout.display = None, ""
            if data != bytes(self.image.value):
                self.image.value = data
            self.message.value = ""
        self.command_box.value = self.command_text(**params)
        self.python_box.value = self.python_text(**params)

    def _save(self) -> None:
        """Write the picture (of `save`, where there is one) to a new file in build/, and say where it is."""
        self.message.value = _grey("saving …")
        try:
            path = _free(paths.build() / "saved", Path(self.command.notebook).stem if self.command else "picture")
            path.write_bytes(png(self.saved(**self.params)))
        except Exception as error:
            self.error, self.message.value = error, _red(error)
        else:
            self.message.value = _grey(f"saved: {path}")

    def show(self) -> None:
        """Display the widget, and below it the default picture as a saved notebook keeps it."""
        from IPython.display import display

        display(self.box)
        show_small(self._default)


def _free(folder: Path, stem: str) -> Path:
    """A file name in `folder` (made where it is missing) that is not taken yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return next(path for n in range(1, 10**6) if not (path := folder / f"{stem}-{n}.png").exists())


def _grey(text: str) -> str:
    return f'<span style="color:#666">{html.escape(text)}</span>'


def _red(error: Exception) -> str:
    return f'<span style="color:#b3261e">{html.escape(sentence(error))}</span>'


def _button(title: str, on_click: Any) -> ipywidgets.Button:
    button = ipywidgets.Button(description=title, layout=_layout(width="auto", align_self="flex-start"))
    button.on_click(on_click)
    return button


def _to_copy(text: str) -> ipywidgets.Textarea:
    return ipywidgets.Textarea(value=text, rows=max(2, text.count("\n") + 1), layout=_layout(width="98%"))


def sentence(error: Exception) -> str:
    """The first line of an error, with its kind unless it is one that was written for readers."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, ReproError) else f"{type(error).__name__}: {first}".rstrip(": ")


def _widget(name: str, control: Control) -> ipywidgets.Widget:
    label = control.label or name
    line = {"style": {"description_width": "initial"}, "layout": _layout(width=f"{COLUMN - 10}px")}
    if isinstance(control, Slider):
        kind = ipywidgets.IntSlider if control.integer else ipywidgets.FloatSlider
        extra = {} if control.integer else {"readout_format": f".{_decimals(control.step)}f"}
        return kind(
            value=control.default,
            min=control.min,
            max=control.max,
            step=control.step,
            description=f"{label} [{control.unit}]" if control.unit else label,
            continuous_update=False,  # one picture per rest of the slider
            **line,
            **extra,
        )
    if isinstance(control, Choice):
        return ipywidgets.Dropdown(options=list(control.options), value=control.default, description=label, **line)
    if isinstance(control, Toggle):
        return ipywidgets.Checkbox(value=control.default, description=label, indent=False)
    if isinstance(control, Seed):
        line["layout"] = _layout(width="220px")
        return ipywidgets.BoundedIntText(
            value=control.default, min=0, max=SEED_MAX, description=label, continuous_update=False, **line
        )
    return ipywidgets.FileUpload(accept=control.accept, multiple=False, description=label, layout=_layout(width="auto"))


def _decimals(step: float) -> int:
    """How many digits after the point the readout needs: 0.05 -> 2, 0.5 -> 1."""
    return len(f"{step:.9f}".rstrip("0").partition(".")[2])
