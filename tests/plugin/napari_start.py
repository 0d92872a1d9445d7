"""How the window comes up without `medssl view`: napari asks for a reader, and has a menu of plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QDialogButtonBox,
    QMenu,
    QMenuBar,
    QPushButton,
    QRadioButton,
    QWidget,
)
from user_simulation import LEFT, wait_until

from napari_medssl.widgets import Dock

TITLE = "Train on few slices"


def open_as_napari_does(viewer, path: Path, answer: Callable[[QDialog], object]) -> int:
    """Open a path as `napari PATH` does; the number of questions for a reader, which `answer` answers."""
    asked: list[QDialog] = []

    def answer_question() -> None:
        question = QApplication.activeModalWidget()
        if isinstance(question, QDialog) and not asked:
            asked.append(question)
            ours = next(each for each in question.findChildren(QRadioButton) if each.text() == "medssl")
            assert ours.isChecked()
            answer(question)

    timer = QTimer(interval=200)
    timer.timeout.connect(answer_question)
    timer.start()
    viewer.window._qt_viewer._qt_open([str(path)], stack=False)
    timer.stop()
    return len(asked)


def press_ok(question: QDialog) -> None:
    """Press OK by the mouse."""
    QTest.mouseClick(ok_of(question), LEFT)


def press_enter(question: QDialog) -> None:
    """Press Enter where the focus is, or else the default button takes it."""
    QTest.keyClick(question.focusWidget() or question, Qt.Key.Key_Return)


def ok_of(question: QDialog) -> QPushButton:
    """The button OK of a dialog."""
    return question.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Ok)


def open_dock_by_menu(viewer) -> int:
    """Go through napari's menus to the dock; the number of clicks."""
    top = next(each for each in QApplication.topLevelWidgets() if _has_menus(each, viewer))
    menu: QMenuBar | QMenu = next(each for each in top.findChildren(QMenuBar) if each.isVisible())
    clicks = 0
    for text in ("Plugins", TITLE, TITLE):
        if any(isinstance(each, Dock) for each in viewer.window.dock_widgets.values()):
            break
        action = next(each for each in menu.actions() if _leads_to(each, text))
        QTest.mouseClick(menu, LEFT, pos=menu.actionGeometry(action).center())
        clicks += 1
        menu = action.menu() or menu
        wait_until(lambda menu=menu: menu.isVisible() or _has_dock(viewer), 10, "the menu")
        QTest.qWait(300)
    assert _has_dock(viewer)
    return clicks


def _has_dock(viewer) -> bool:
    return any(isinstance(each, Dock) for each in viewer.window.dock_widgets.values())


def _has_menus(widget: QWidget, viewer) -> bool:
    return widget.isVisible() and bool(widget.findChildren(QMenuBar)) and widget.windowTitle() == viewer.title


def _leads_to(action, text: str) -> bool:
    inside = action.menu()
    here = text in action.text().replace("&", "")
    return here or (inside is not None and any(_leads_to(each, text) for each in inside.actions()))
