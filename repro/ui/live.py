"""The live face of `explore`: the only module that knows ipywidgets, and only what its versions 7.7 and 8 share."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets

from repro.ui.controls import (
    SEED_MAX,
    Choice,
    Control,
    Seed,
    Slider,
    Toggle,
    Upload,
    uploaded,
)
from repro.ui.explore import Explorer, show_png

_WIDE = {"description_width": "initial"}


class LiveExplorer(Explorer):
    """Sliders above one image that is replaced in place.

    `widgets[name]`, `image`, `message`, `command_box` and `python_box` are public.

    `error` keeps the last exception with its traceback, of which the reader sees one sentence.
    """

    live = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.error: Exception | None = None
        self._quiet = False
        self._default_png = self.png()
        self.image = ipywidgets.Image(
            value=self._default_png,
            format="png",
            layout=ipywidgets.Layout(max_width="100%", object_fit="contain", align_self="flex-start"),
        )
        self.message = ipywidgets.HTML("")
        self.command_box = _to_copy("copy as papermill command", self.command_text())
        self.python_box = _to_copy("copy as Python", self.python_text())
        self.widgets = {name: _widget(name, control) for name, control in self.controls.items()}
        for name, widget in self.widgets.items():
            widget.observe(lambda change, name=name: self._changed(name), names="value")
        self.box = ipywidgets.VBox(self._rows())

    def _rows(self) -> list[ipywidgets.Widget]:
        rows: list[ipywidgets.Widget] = []
        if self.presets:
            buttons = []
            for title, preset in self.presets.items():
                button = ipywidgets.Button(description=title, layout=ipywidgets.Layout(width="auto"))
                button.on_click(lambda _, preset=preset: self.set(**preset))
                buttons.append(button)
            rows.append(ipywidgets.HBox(buttons, layout=ipywidgets.Layout(flex_flow="row wrap")))
        for name, widget in self.widgets.items():
            if isinstance(self.controls[name], Seed):
                following = ipywidgets.Button(description="next", layout=ipywidgets.Layout(width="auto"))
                following.on_click(
                    lambda _, widget=widget: setattr(widget, "value", (widget.value + 1) % (SEED_MAX + 1))
                )
                widget = ipywidgets.HBox([widget, following])
            rows.append(widget)
        note = ipywidgets.HTML(
            '<small style="color:#666">Below: the default picture, which a saved notebook keeps.</small>'
        )
        copied = [box for box, there in ((self.command_box, self.command), (self.python_box, self.python)) if there]
        return [*rows, self.image, self.message, *copied, note]

    @property
    def params(self) -> dict[str, Any]:
        """What the controls say now, as `fn` gets it."""
        return {
            name: uploaded(widget.value) if isinstance(self.controls[name], Upload) else widget.value
            for name, widget in self.widgets.items()
        }

    def set(self, **params: Any) -> None:
        """Move several controls, draw once. An upload stays as it is: a browser does not let anyone fill it in."""
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
        """One new picture, or the old one with a sentence that says why there is no new one."""
        params = self.params
        try:
            data = self.png(**params)
        except Exception as error:
            self.error = error
            self.message.value = f'<span style="color:#b3261e">{html.escape(sentence(error))}</span>'
        else:
            self.error = None
            self.message.value = ""
            if data != bytes(self.image.value):
                self.image.value = data
        self.command_box.value = self.command_text(**params)
        self.python_box.value = self.python_text(**params)

    def show(self) -> None:
        """Display the widget, and below it the default picture as plain PNG, which is what a saved notebook keeps."""
        from IPython.display import display

        display(self.box)
        show_png(self._default_png)


def _to_copy(label: str, text: str) -> ipywidgets.Textarea:
    rows = max(2, text.count("\n") + 1)
    layout = ipywidgets.Layout(width="98%")
    return ipywidgets.Textarea(value=text, description=label, rows=rows, style=_WIDE, layout=layout)


def sentence(error: Exception) -> str:
    """The first line of an error, with its kind unless it is one that was written for readers."""
    from repro.errors import ReproError

    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, ReproError) else f"{type(error).__name__}: {first}".rstrip(": ")


def _widget(name: str, control: Control) -> ipywidgets.Widget:
    label = control.label or name
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
            style=_WIDE,
            layout=ipywidgets.Layout(width="440px", max_width="98%"),
            **extra,
        )
    if isinstance(control, Choice):
        return ipywidgets.Dropdown(options=list(control.options), value=control.default, description=label, style=_WIDE)
    if isinstance(control, Toggle):
        return ipywidgets.Checkbox(value=control.default, description=label, indent=False)
    if isinstance(control, Seed):
        return ipywidgets.BoundedIntText(
            value=control.default, min=0, max=SEED_MAX, description=label, style=_WIDE, continuous_update=False
        )
    return ipywidgets.FileUpload(
        accept=control.accept, multiple=False, description=label, layout=ipywidgets.Layout(width="auto")
    )


def _decimals(step: float) -> int:
    """How many digits after the point the readout needs: 0.05 -> 2, 0.5 -> 1."""
    from decimal import Decimal

    return max(0, -int(Decimal(repr(step)).normalize().as_tuple().exponent))
