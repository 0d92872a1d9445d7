"""Prompts for an nnInteractive server: real requests to a small server of its protocol."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from napari.components import ViewerModel

from napari_medssl.annotate.edits import Edits
from napari_medssl.interactive import server
from napari_medssl.interactive.proposals import PROPOSAL, Proposals, Tool
from napari_medssl.interactive.server import PromptServer
from napari_medssl.layers import find
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

if not server.is_installed():
    pytest.skip("needs the extra interactive", allow_module_level=True)
from prompt_server import LICENSE, State, prompt_server

SHAPE = (6, 10, 12)


def blocks() -> np.ndarray:
    """Two structures, of brightness 1 and 2, float32 (Z, Y, X)."""
    image = np.zeros(SHAPE, np.float32)
    image[1:5, 2:5, 2:6], image[1:5, 6:9, 7:11] = 1, 2
    return image


@pytest.fixture
def remote():
    with prompt_server() as state:
        yield state


@pytest.fixture
def client(remote: State):
    made = PromptServer(remote.address)
    made.set_image(blocks(), (3, 1, 1))
    yield made
    made.close()


def test_a_point_a_box_and_a_scribble_propose_the_structure(client: PromptServer) -> None:
    scribble = np.zeros(SHAPE, np.uint8)
    scribble[2, 3, 2:6] = 1
    for prompt in (
        lambda: client.point((2, 3, 3), True),
        lambda: client.box([(2, 3), (2, 5), (2, 6)], True),
        lambda: client.scribble(scribble, True),
    ):
        prompt()
        assert np.array_equal(client.mask, blocks() == 1)
        client.reset()
        assert not client.mask.any()
    assert client.license == LICENSE


def test_an_excluding_prompt_and_undo(client: PromptServer) -> None:
    client.point((2, 3, 3), True)
    client.point((2, 7, 8), True)
    client.point((2, 3, 3), False)
    assert np.array_equal(client.mask, blocks() == 2)
    assert client.undo()
    assert np.array_equal(client.mask, blocks() > 0)


@pytest.mark.parametrize(
    "status, code",
    [(401, "server-key"), (403, "server-key"), (503, "server-busy"), (410, "server-session"),
     (404, "server-version"), (422, "server-version"), (500, "server-version")],
)  # fmt: skip
def test_what_a_server_refuses_is_one_sentence(
    client: PromptServer, remote: State, status: int, code: str
) -> None:
    remote.status = status
    with pytest.raises(UserError) as error:
        client.point((2, 3, 3), True)
    assert error.value.code == code and remote.address in str(error.value)


def test_a_key(remote: State) -> None:
    remote.key = "secret"
    with pytest.raises(UserError) as error:
        PromptServer(remote.address)
    assert error.value.code == "server-key"
    PromptServer(remote.address, "secret").close()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "host", "http://", "ftp://host", "http://[", ":::"]
)
def test_no_server_at_an_address(address: str) -> None:
    with pytest.raises(UserError) as error:
        PromptServer(address)
    assert error.value.code in ("no-server", "server-version")


def test_another_program_at_the_address(remote: State) -> None:
    with pytest.raises(UserError) as error:
        PromptServer(remote.address + "/elsewhere")
    assert error.value.code == "server-version"


def test_the_client_loads_no_torch() -> None:
    check = (
        "import sys; from napari_medssl.interactive.server import _client; _client(); "
        "assert 'torch' not in sys.modules; import torch"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", check], check=True)


# --- in the viewer -----------------------------------------------------------------------------------


@pytest.fixture
def desk(qtbot, tmp_path, remote: State) -> Workspace:
    """The blocks on the screen, axial slice 2, with the tool switched on."""
    path = tmp_path / "blocks.nii"
    nibabel.save(nibabel.Nifti1Image(blocks().transpose(2, 1, 0), np.diag([1.0, 1, 3, 1])), path)
    made = Workspace(ViewerModel(), Session())
    made.proposals = Proposals(made, Edits(made))
    made.session.open(tmp_path / "project")
    made.session.select(made.session.project.add_scan(path).id)
    made.new_annotation()
    made.go_to(0, 2)
    made.proposals.switch(True, remote.address)
    yield made
    made.proposals.close()
    made.close()


def drag(desk: Workspace, voxels: list[tuple[int, int, int]], *keys: str) -> None:
    """Press at the first voxel, move over the others, release; as napari calls its mouse callbacks."""
    positions = [desk.scan_layer.data_to_world(voxel) for voxel in voxels]
    event = SimpleNamespace(type="mouse_press", button=1, modifiers=keys, position=positions[0])
    assert desk.proposals._on_mouse in desk.viewer.mouse_drag_callbacks
    steps = desk.proposals._on_mouse(desk.viewer, event)
    next(steps)
    event.type = "mouse_move"
    for event.position in positions[1:]:
        next(steps)
    event.type = "mouse_release"
    assert next(steps, None) is None


def answered(qtbot, desk: Workspace) -> np.ndarray:
    """The proposal on the screen, when the server has answered all prompts; bool (Z, Y, X)."""
    qtbot.waitUntil(lambda: not desk.proposals.waiting, timeout=20_000)
    return np.asarray(find(desk.viewer.layers, PROPOSAL).data) == 1


def test_a_click_becomes_a_proposal_and_accept_one_step_of_undo(qtbot, desk) -> None:
    one = desk.annotation_layer.data.copy()
    desk.annotation_layer.paint((2, 3, 3), 1)
    drag(desk, [(2, 7, 8)])
    structure = answered(qtbot, desk)
    assert np.array_equal(structure, blocks() == 2)
    assert desk.proposals.accept(1) == structure.sum()
    painted = desk.annotation_layer.data == 1
    assert painted[structure].all() and find(desk.viewer.layers, PROPOSAL) is None
    desk.annotation_layer.undo()
    assert not desk.annotation_layer.data[structure].any() and (desk.annotation_layer.data != one).any()
    assert desk.session.annotation.journal.size > 0


@pytest.mark.parametrize("tool", [Tool.BOX, Tool.SCRIBBLE])
def test_a_drag_is_a_box_or_a_scribble_and_does_not_move_the_view(qtbot, desk, tool: Tool) -> None:
    desk.proposals.tool = tool
    drag(desk, [(2, 2, 2), (2, 3, 4), (2, 4, 5)])
    assert np.array_equal(answered(qtbot, desk), blocks() == 1)
    assert desk.scan_layer.mouse_pan


def test_control_excludes_and_undo_takes_it_back(qtbot, desk) -> None:
    for voxel, keys in (((2, 3, 3), ()), ((2, 7, 8), ()), ((2, 3, 3), ("Control",))):
        drag(desk, [voxel], *keys)
    assert np.array_equal(answered(qtbot, desk), blocks() == 2)
    desk.proposals.undo()
    assert np.array_equal(answered(qtbot, desk), blocks() > 0)


def test_strokes_stay_under_an_accepted_proposal(qtbot, desk) -> None:
    desk.annotation_layer.data_setitem(tuple(np.array([value]) for value in (2, 3, 3)), 255)
    drag(desk, [(2, 3, 4)])
    answered(qtbot, desk)
    desk.proposals.accept(1)
    assert desk.annotation_layer.data[2, 3, 3] == 255 and desk.annotation_layer.data[2, 3, 4] == 1


def test_another_scan_takes_the_proposal_away_and_is_sent_itself(qtbot, desk, remote, tmp_path) -> None:
    drag(desk, [(2, 3, 3)])
    answered(qtbot, desk)
    path = tmp_path / "other.nii"
    nibabel.save(nibabel.Nifti1Image(blocks()[::-1].transpose(2, 1, 0) * 5, np.diag([1.0, 1, 3, 1])), path)
    desk.session.select(desk.session.project.add_scan(path).id)
    assert find(desk.viewer.layers, PROPOSAL) is None
    drag(desk, [(2, 3, 3)])
    assert np.array_equal(answered(qtbot, desk), blocks() == 1)
    assert remote.requests.count("/set_image") == 2 and remote.requests.count("/claim") == 1


def test_after_a_pause_the_next_prompt_begins_anew(qtbot, desk, remote) -> None:
    said: list[str] = []
    desk.session.message.connect(lambda severity, text: said.append(text))
    drag(desk, [(2, 3, 3)])
    answered(qtbot, desk)
    remote.status = 410
    drag(desk, [(2, 7, 8)])
    answered(qtbot, desk)
    assert "ended the session" in said[-1]
    remote.status = 200
    desk.proposals.discard()
    drag(desk, [(2, 7, 8)])
    assert np.array_equal(answered(qtbot, desk), blocks() == 2) and remote.requests.count("/claim") == 2


def test_without_an_answer_there_is_nothing_to_accept(desk) -> None:
    with pytest.raises(UserError) as error:
        desk.proposals.accept(1)
    assert error.value.code == "no-proposal"


def test_switching_off_removes_the_proposal_and_releases_the_server(qtbot, desk, remote) -> None:
    drag(desk, [(2, 3, 3)])
    answered(qtbot, desk)
    desk.proposals.switch(False)
    assert find(desk.viewer.layers, PROPOSAL) is None
    assert desk.proposals._on_mouse not in desk.viewer.mouse_drag_callbacks
    qtbot.waitUntil(lambda: "/release" in remote.requests, timeout=10_000)
