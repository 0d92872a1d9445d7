"""Forms for settings dataclasses, made by magicgui: the collapsed section "Advanced" of a step."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal

from magicgui.widgets import create_widget
from magicgui.widgets.bases import ValueWidget
from medssl.core import settings
from medssl.core.settings_source import Setting
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QAbstractSpinBox, QDoubleSpinBox, QGridLayout, QLabel, QLineEdit, QWidget
from superqt import QCollapsible

from napari_medssl.qt import not_none
from napari_medssl.widgets.components import NO_LIMIT, button, hint

Groups = dict[str, list[Setting]]
"""Settings by the titles of their groups."""
AUTO = "auto"
"""What a setting shows whose choice is left to the program."""
MOST = 1_000_000_000
EDITOR_WIDTH = 112


class Advanced(QCollapsible):
    """What can be set besides the step's own widgets; only what was changed goes into a job.

    Changes belong to a `key` (a method and its recipe) and come back with it. The form is made when it is
    opened first.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__("Advanced")
        self._key = ""
        self._read: Callable[[], Groups] = dict
        self._known: Groups | None = None
        self._texts: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, _Row] = {}
        self._made = ""
        header = self.toggleButton()
        header.setStyleSheet("")
        header.setProperty("advanced", True)
        not_none(self.layout()).setContentsMargins(0, 0, 0, 0)
        self.setDuration(0)
        self.redraw_icons()
        self.toggled.connect(self._on_toggled)

    def redraw_icons(self) -> None:
        """Draw the header's arrow in the colour that the theme gives its text."""
        self.toggleButton().ensurePolished()
        self.setExpandedIcon("▾")
        self.setCollapsedIcon("▸")

    def show_settings(self, key: str, read: Callable[[], Groups]) -> None:
        """Offer the settings of a key.

        Args:
            key: A method or choice and its recipe.
            read: Returns the settings by the titles of their groups. It reads source files, so it is called
                when the settings are needed first.
        """
        if key == self._key:
            return
        self._key, self._read, self._known = key, read, None
        if self.isExpanded():
            self._make()
        self._mark()

    def values(self) -> dict[str, Any]:
        """What was changed, by name, as `medssl ... --set` takes it.

        Raises UserError ("bad-job") that names the first value that does not fit.
        """
        chosen = dict(self._chosen)
        if not chosen:
            return chosen
        settings.check([each for group in self._groups.values() for each in group], chosen)
        return chosen

    def set(self, name: str, value: Any) -> None:
        """Change a setting; its default takes the change back."""
        setting = next(each for group in self._groups.values() for each in group if each.name == name)
        if value == _plain(setting.default):
            self._chosen.pop(name, None)
        else:
            self._chosen[name] = value
        self._mark()
        self.changed.emit()

    def editor(self, name: str) -> ValueWidget:
        """The widget of a setting; the form has to be open."""
        return self._rows[name].editor

    def reset(self, name: str) -> None:
        """Back to the recipe's value."""
        self._rows[name].show_default()

    @property
    def _groups(self) -> Groups:
        if self._known is None:
            self._known = self._read()
        return self._known

    @property
    def _chosen(self) -> dict[str, Any]:
        return self._texts.setdefault(self._key, {})

    def _on_toggled(self, opened: bool) -> None:
        if opened and self._made != self._key:
            self._make()
        self.content().setMaximumHeight(NO_LIMIT if opened else 0)

    def _make(self) -> None:
        inside, chosen = QWidget(), dict(self._chosen)
        grid = QGridLayout(inside)
        grid.setContentsMargins(6, 2, 2, 6)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(0, 1)
        self._rows = {}
        for title, group in self._groups.items():
            head = hint(title)
            grid.addWidget(head, grid.rowCount(), 0, 1, 3)
            for each in group:
                self._rows[each.name] = row = _Row(
                    each, chosen.get(each.name, _plain(each.default)), self.set
                )
                row.add_to(grid)
        self.content().setParent(None)
        inside.setMaximumHeight(NO_LIMIT)
        self.setContent(inside)
        self._made = self._key
        self._mark()

    def _mark(self) -> None:
        for name, row in self._rows.items():
            row.mark(name in self._chosen)
        count = len(self._chosen)
        self.setText(f"Advanced ({count} changed)" if count else "Advanced")


class _Row(QObject):
    """Label, editor and the button that takes a change back."""

    def __init__(self, setting: Setting, value: Any, set_value: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._setting = setting
        self.editor, self._shown, self._read = _editor(setting)
        self.label = QLabel(setting.label)
        self.label.setToolTip(f"<qt>{setting.help}</qt>" if setting.help else "")
        self.label.setWordWrap(True)  # a long name must not widen the dock
        self.label.setBuddy(self.editor.native)
        self.back = button("↺", self.show_default, f"Back to {self._shown(_plain(setting.default))}")
        self.back.setProperty("reset", True)
        self.editor.value = self._shown(value)
        native = self.editor.native
        if isinstance(native, QLineEdit):
            native.setCursorPosition(0)
            native.setPlaceholderText(AUTO if setting.default is None else "")
        native.setFixedWidth(EDITOR_WIDTH)
        native.setToolTip(self.label.toolTip())
        native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        native.installEventFilter(self)
        self.editor.changed.connect(lambda shown: set_value(setting.name, self._read(shown)))

    def add_to(self, grid: QGridLayout) -> None:
        """As the last row."""
        number = grid.rowCount()
        for column, widget in enumerate((self.label, self.editor.native, self.back)):
            grid.addWidget(widget, number, column)

    def show_default(self) -> None:
        """Show the recipe's value; the editor tells of the change."""
        self.editor.value = self._shown(_plain(self._setting.default))

    def mark(self, changed: bool) -> None:
        """Set what was changed off from the recipe's values."""
        font = self.label.font()
        font.setBold(changed)
        self.label.setFont(font)
        policy = self.back.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.back.setSizePolicy(policy)
        self.back.setVisible(changed)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Turning the wheel over a long form scrolls it and changes no number by the way."""
        wheel = event is not None and event.type() == QEvent.Type.Wheel
        if wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            not_none(event).ignore()
            return True
        return False


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


Shown = Callable[[Any], Any]


def _editor(setting: Setting) -> tuple[ValueWidget, Shown, Shown]:
    """A widget for the setting's type, how it shows a value, and what is meant by what it shows."""
    kind, metas, optional = _type_of(setting.kind)
    origin = typing.get_origin(kind)
    if kind is bool and not optional:
        return _widget(annotation=bool, options={"text": ""}), bool, bool
    if origin is Literal or kind is bool:
        known = typing.get_args(kind)
        choices = [("yes", True), ("no", False)] if kind is bool else [(str(each), each) for each in known]
        options = {"choices": [(AUTO, AUTO), *choices] if optional else choices}
        box = _widget(annotation=Any, widget_type="ComboBox", options=options)
        return box, lambda value: AUTO if value is None else value, _auto
    if kind in (int, float) and not optional:
        return _number(setting, kind, metas)
    if kind is int:
        return _widget(annotation=str), _as_text, _whole_number
    if origin is not tuple:
        return _widget(annotation=str), str, str
    return _widget(annotation=str), _as_text, lambda shown: _from_text(shown, None if optional else [])


def _widget(**options: Any) -> ValueWidget:
    """A magicgui widget that holds a value."""
    widget = create_widget(**options)
    assert isinstance(widget, ValueWidget)
    return widget


def _number(setting: Setting, kind: type, metas: list[Any]) -> tuple[ValueWidget, Shown, Shown]:
    least = next((meta.ge for meta in metas if meta.ge is not None), None)
    above = next((meta.gt for meta in metas if meta.gt is not None), None)
    most = min([MOST, *(meta.le for meta in metas if meta.le is not None)])  # a box counts no further
    low = least if least is not None else above if above is not None else -MOST
    widget = _widget(annotation=kind, options={"min": low, "max": most})
    native = widget.native
    native.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
    if isinstance(native, QDoubleSpinBox):
        digits = len(f"{setting.default:.12f}".rstrip("0").partition(".")[2])
        native.setDecimals(max(2, digits + 1))
    return widget, kind, kind


def _type_of(kind: Any) -> tuple[Any, list[Any], bool]:
    """The type without its wrappers, its ranges, and whether None is one of its values."""
    metas: list[Any] = []
    optional = False
    while True:
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            kind, metas = parts[0], [*metas, *parts[1:]]
        elif origin in (typing.Union, UnionType) and type(None) in parts:
            kind, optional = next(part for part in parts if part is not type(None)), True
        else:
            return kind, metas, optional


def _auto(shown: Any) -> Any:
    return None if shown == AUTO else shown


def _as_text(value: Any) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _whole_number(shown: str) -> Any:
    text = shown.strip()
    return int(text) if text.isdecimal() else text or None


def _from_text(shown: str, empty: Any) -> Any:
    """Numbers with commas between them; whatever is not that is left for the check to refuse."""
    text = shown.strip().strip("[]()").rstrip(",")
    try:
        return json.loads(f"[{text}]") if text else empty
    except ValueError:
        return shown
