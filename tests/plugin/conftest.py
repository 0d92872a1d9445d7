"""Which screen the tests draw on, and what is said on it."""

from __future__ import annotations

import os

import pytest
from medssl.core.project.project import Project

HAS_SCREEN = bool(os.environ.get("DISPLAY")) or os.name == "nt"
if not HAS_SCREEN:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # enough for widgets, not for a viewer's canvas


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A viewer needs OpenGL, which the offscreen platform has not."""
    if HAS_SCREEN:
        return
    skip = pytest.mark.skip(reason="no display; run under xvfb-run to open a real window")
    for item in items:
        if item.get_closest_marker("viewer"):
            item.add_marker(skip)


@pytest.fixture
def napari_app(mock_app_model):
    """Commands and menus of a napari that was just started, for a test that makes its viewer itself."""
    from napari._qt._qapp_model.qactions import init_qactions
    from napari._qt.qt_viewer import QtViewer
    from napari.plugins import _initialize_plugins

    for register in (_initialize_plugins, init_qactions):
        register.cache_clear()
    yield mock_app_model
    # Menus of a window that its user closed would answer each entry's removal with an error, for minutes.
    mock_app_model.menus.menus_changed.disconnect()
    QtViewer._instances.clear()  # napari keeps a window that its user closed, and refuses to test beside it


@pytest.fixture(autouse=True)
def no_engine_ahead(monkeypatch) -> None:
    """Strokes start no engine ahead of its job, but where that is tested."""
    from napari_medssl.engine import child_process

    monkeypatch.setattr(child_process.StandbyEngine, "on", False)


@pytest.fixture
def said(monkeypatch) -> list[tuple[str, str]]:
    """(severity, sentence) that napari was asked to show."""
    from napari_medssl.widgets import dock  # Qt, which the platform above is for

    shown: list[tuple[str, str]] = []
    for severity in dock.NOTIFICATIONS:
        monkeypatch.setitem(
            dock.NOTIFICATIONS, severity, lambda text, severity=severity: shown.append((severity, text))
        )
    return shown


@pytest.fixture(autouse=True)
def no_precompute(monkeypatch) -> None:
    """No engine computes features by itself, except where a test is about that."""
    from napari_medssl.engine.precompute import Precompute

    monkeypatch.setattr(Precompute, "on", False)


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path) -> None:
    """Recent projects, preferences and hosts are not those of the person who runs the tests."""
    from napari_medssl.model import preferences, recent_projects, run_host

    monkeypatch.setattr(recent_projects, "FILE", tmp_path / "config" / "recent-projects.json")
    monkeypatch.setattr(preferences, "FILE", tmp_path / "config" / "preferences.json")
    monkeypatch.setattr(run_host, "ssh_hosts", lambda: ())


@pytest.fixture
def project(small_project: Project) -> Project:
    """The project that `dock` opens."""
    return small_project


@pytest.fixture
def dock(qtbot, said, project: Project):
    """The dock without a window, with the first scan of `project` on the screen."""
    from napari.components import ViewerModel
    from user_simulation import open_and_wait

    from napari_medssl.widgets import Dock

    made = Dock(ViewerModel())
    qtbot.addWidget(made)
    made.show()
    open_and_wait(made, project.root)
    yield made
    made._leave()
