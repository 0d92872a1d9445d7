"""A hand that also opens menus, answers dialogs, follows links, turns the wheel and reads tooltips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from qtpy.QtCore import QEvent, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QAction, QContextMenuEvent, QHelpEvent, QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QDialog,
    QFileDialog,
    QInputDialog,
    QLabel,
    QLineEdit,
    QMenu,
    QMessageBox,
    QTableWidget,
    QToolTip,
    QWidget,
)
from user_simulation import LEFT, UserSimulation, wait_until

CONTROL = Qt.KeyboardModifier.ControlModifier
PAUSE = 10
"""Looks at a dialog before it is answered."""
PLAIN, NO_BUTTON = Qt.KeyboardModifier.NoModifier, Qt.MouseButton.NoButton


class WindowUser(UserSimulation):
    """Goes on where the clicks and strokes of its base end."""

    # --- menus and dialogs ---------------------------------------------------------------------------

    @contextmanager
    def answering(self, *answers: Callable[[QDialog], object]) -> Iterator[None]:
        """Answer the next dialogs, whose event loops keep the caller waiting."""
        left, seen, answered = list(answers), list[QWidget](), list[QWidget]()

        def try_to() -> bool:
            dialog = QApplication.activeModalWidget()
            if not isinstance(dialog, QDialog) or not dialog.isVisible() or dialog in answered:
                return False
            seen.append(dialog)
            if seen.count(dialog) < PAUSE:  # a file dialog lists its folder first
                return False
            answered.append(dialog)
            left.pop(0)(dialog)
            return not left

        with self._meanwhile(try_to, "a dialog"):
            yield

    def choose_file(self, button: QWidget, path: Path) -> None:
        """Press a button that opens a file dialog, and type a path into it."""
        with self.answering(type_path(path)):
            self.click(button)

    def choose_in(self, open_menu: Callable[[], object], *path: str) -> None:
        """Open a menu and go through it by the first words of its entries."""
        steps = list(path)

        def try_to() -> bool:
            menu = QApplication.activePopupWidget()
            if not isinstance(menu, QMenu) or not menu.isVisible():
                return False
            entry = entry_of(menu, steps.pop(0))
            QTest.mouseClick(menu, LEFT, pos=menu.actionGeometry(entry).center())
            return not steps

        with self._meanwhile(try_to, f"the menu with {' > '.join(path)}"):
            open_menu()

    def press_menu(self, button: QWidget, *path: str) -> None:
        """Press a button that has a menu, and choose in it."""
        self.choose_in(lambda: self.click(button), *path)

    def menu_texts(self, open_menu: Callable[[], object], until: str = "") -> list[str]:
        """Open a menu, read its entries once one of them has a text, and close it by Escape."""
        texts: list[str] = []

        def try_to() -> bool:
            menu = QApplication.activePopupWidget()
            if not isinstance(menu, QMenu):
                return False
            texts[:] = [action.text() for action in menu.actions()]
            if not any(until in text for text in texts):
                return False
            QTest.keyClick(menu, Qt.Key.Key_Escape)
            return True

        with self._meanwhile(try_to, f"the menu with {until!r}"):
            open_menu()
        return texts

    def right_click(self, widget: QWidget, place: QPoint) -> None:
        """Ask for a context menu."""
        self._scroll_to(widget)
        QTest.mouseClick(widget, Qt.MouseButton.RightButton, pos=place)
        there = widget.mapToGlobal(place)
        QApplication.sendEvent(widget, QContextMenuEvent(QContextMenuEvent.Reason.Mouse, place, there))

    def right_click_row(self, table: QTableWidget, row: int, *path: str) -> None:
        """Choose in the context menu of a row."""
        place = self._place_of(table, row)
        self.choose_in(lambda: self.right_click(table.viewport(), place), *path)

    def click_row(self, table: QTableWidget, row: int) -> None:
        """Click a row."""
        QTest.mouseClick(table.viewport(), LEFT, pos=self._place_of(table, row))
        QTest.qWait(30)

    def _place_of(self, table: QTableWidget, row: int) -> QPoint:
        """A place in the viewport in a row, which is scrolled to."""
        self._scroll_to(table)
        item = table.item(row, min(1, table.columnCount() - 1))
        table.scrollToItem(item)
        return table.visualItemRect(item).center()

    @contextmanager
    def _meanwhile(self, try_to: Callable[[], bool], what: str) -> Iterator[None]:
        """Try again and again until it is done, also in the event loops of menus and dialogs."""
        timer, state = QTimer(interval=60), {"busy": False, "done": False}
        failed: list[BaseException] = []

        def tick() -> None:
            if state["busy"] or state["done"]:
                return
            state["busy"] = True
            try:
                state["done"] = try_to()
            except BaseException as error:
                failed.append(error)
                state["done"] = True
                for open_one in (QApplication.activePopupWidget(), QApplication.activeModalWidget()):
                    if open_one is not None:
                        open_one.close()
            state["busy"] = False

        timer.timeout.connect(tick)
        timer.start()
        try:
            yield
            wait_until(lambda: state["done"] and not state["busy"], 20, what)
        finally:
            timer.stop()
        if failed:
            raise failed[0]
        QTest.qWait(30)

    def pick(self, box: QComboBox, text: str) -> None:
        """Open a list by the mouse and click an entry; by keys, all entries on the way would be chosen."""
        self.click(box)
        QTest.qWait(500)
        view = box.view()
        place = view.visualRect(view.model().index(box.findText(text), 0)).center()
        QTest.mouseMove(view.viewport(), place)
        QTest.mouseClick(view.viewport(), LEFT, pos=place)
        QTest.qWait(100)

    # --- what the pointer finds ----------------------------------------------------------------------

    def tooltip(self, widget: QWidget) -> str:
        """Hold the pointer over a widget and read."""
        self._scroll_to(widget)
        place = widget.rect().center()
        QApplication.sendEvent(widget, QHelpEvent(QEvent.Type.ToolTip, place, widget.mapToGlobal(place)))
        text = QToolTip.text()
        QToolTip.hideText()
        return text

    def click_link(self, label: QLabel, number: int = 0) -> None:
        """Click a link of a label: where the pointer becomes a hand."""
        self._scroll_to(label)
        places, was_hand = [], False
        for y in range(4, label.height(), 8):
            for x in range(0, label.width(), 3):
                self._move_to(label, QPoint(x, y))
                is_hand = label.cursor().shape() == Qt.CursorShape.PointingHandCursor
                if is_hand and not was_hand:
                    places.append(QPoint(x + 1, y))
                was_hand = is_hand
        assert len(places) > number, f"no link {number} in {label.text()!r}"
        QTest.mouseClick(label, LEFT, pos=places[number])
        QTest.qWait(50)

    def drag_with(
        self, widget: QWidget, button: Qt.MouseButton, start: QPoint, end: QPoint, keys: object = PLAIN
    ) -> None:
        """Press any button, move, let go."""
        QTest.mousePress(widget, button, keys, start)
        QTest.qWait(15)
        self._move_to(widget, end, button, keys)
        QTest.mouseRelease(widget, button, keys, end)
        QTest.qWait(15)

    def _move_to(
        self, widget: QWidget, place: QPoint, button: Qt.MouseButton = NO_BUTTON, keys: object = PLAIN
    ) -> None:
        """Move over a widget; QTest.mouseMove forgets which button is down, and the event comes later."""
        there = QPointF(place), QPointF(widget.mapToGlobal(place))
        QApplication.sendEvent(widget, QMouseEvent(QEvent.Type.MouseMove, *there, button, button, keys))

    def key_with(self, key: Qt.Key, keys: object) -> None:
        """Press a key with modifiers while the canvas has the focus."""
        self.canvas.setFocus()
        QTest.keyClick(self.canvas, key, keys)
        QTest.qWait(30)

    def click_voxel_with(self, layer, voxel: Sequence[float], keys: object) -> None:
        """Click the canvas while keys are held."""
        point = self.point_of(layer, voxel)
        QTest.mouseMove(self.canvas, point)
        QTest.mouseClick(self.canvas, LEFT, keys, point)
        QTest.qWait(30)


# --- answers to dialogs ------------------------------------------------------------------------------


def entry_of(menu: QMenu, text: str) -> QAction:
    """The entry of a menu that begins with a text."""
    for action in menu.actions():
        if action.text().replace("&", "").startswith(text):
            assert action.isEnabled(), f"{text} is grey: {action.toolTip()}"
            return action
    raise AssertionError(f"no {text!r} among {[action.text() for action in menu.actions()]}")


def type_path(path: Path) -> Callable[[QDialog], None]:
    """Type a path into a file dialog."""

    def answer(dialog: QDialog) -> None:
        assert isinstance(dialog, QFileDialog), f"no file dialog but {dialog}"
        type_into(dialog.findChild(QLineEdit), str(path))

    return answer


def type_text(text: str) -> Callable[[QDialog], None]:
    """Type into a dialog that asks for a text."""

    def answer(dialog: QDialog) -> None:
        assert isinstance(dialog, QInputDialog), f"no question for a text but {dialog}"
        type_into(dialog.findChild(QLineEdit), text)

    return answer


def type_into(edit: QLineEdit, text: str) -> None:
    """Replace what a line has, and press Enter."""
    QTest.keyClick(edit, Qt.Key.Key_A, CONTROL)
    QTest.keyClicks(edit, text)
    QTest.keyClick(edit, Qt.Key.Key_Return)


def press(text: str, saying: str = "") -> Callable[[QDialog], None]:
    """Press a button of a question, which has to say something."""

    def answer(dialog: QDialog) -> None:
        assert isinstance(dialog, QMessageBox), f"no question but {dialog}"
        said = f"{dialog.text()} {dialog.informativeText()}"
        assert saying in said, f"{saying!r} is not in {said!r}"
        button = next(each for each in dialog.buttons() if each.text().replace("&", "") == text)
        QTest.mouseClick(button, LEFT)

    return answer
