"""Pictures of the window, and films of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from user_window import WindowUser

FILM_WIDTH = 800
FRAME_MS = 110
CAPTION_HEIGHT, CAPTION_SIZE, CAPTION_INDENT = 34, 18, 12
"""Of the strip below the picture, in pixels."""


class Camera:
    """Takes pictures of a window, and a film while it is told to."""

    def __init__(self, user: WindowUser, out: Path, themes: list[str], film_width: int = FILM_WIDTH) -> None:
        self.user, self.viewer, self.out, self.themes = user, user.viewer, out, themes
        self.frames: list[np.ndarray] = []
        self._width = film_width
        self.caption = ""
        """Below the frames, with the time since the camera was made: what the window does not show."""
        self._begin = time.monotonic()
        self.viewer.theme = themes[0]

    def take_picture(self, name: str) -> None:
        """The window in each theme; the first theme's picture has the plain name."""
        self.user.dismiss_notifications()
        QTest.mouseMove(self.user.dock.feedback.job_line)  # nothing is lit below the pointer
        for number, theme in enumerate(self.themes):
            self.viewer.theme = theme
            QTest.qWait(900)
            path = self.out / (f"{name}.png" if number == 0 else f"{name}-{theme}.png")
            self.viewer.window.screenshot(str(path), canvas_only=False, flash=False)
        self.viewer.theme = self.themes[0]
        QTest.qWait(200)

    def add_frame(self, times: int = 1) -> None:
        """One frame of the film, shown so many times as long as others."""
        QApplication.sendPostedEvents(None, QEvent.Type.LayoutRequest.value)  # new texts have their places
        shot = self.viewer.window.screenshot(canvas_only=False, flash=False)
        picture = Image.fromarray(shot[..., :3])
        height = round(picture.height * self._width / picture.width)
        small = picture.resize((self._width, height), Image.Resampling.LANCZOS)
        self.frames += [np.asarray(self._captioned(small) if self.caption else small)] * times

    def _captioned(self, picture: Image.Image) -> Image.Image:
        """A picture with the time and the caption in a strip below it."""
        frame = Image.new("RGB", (picture.width, picture.height + CAPTION_HEIGHT))
        frame.paste(picture)
        seconds = int(time.monotonic() - self._begin)
        ImageDraw.Draw(frame).text(
            (CAPTION_INDENT, picture.height + CAPTION_HEIGHT // 2),
            f"{seconds // 60}:{seconds % 60:02}   {self.caption}",
            font=ImageFont.load_default(CAPTION_SIZE),
            anchor="lm",
        )
        return frame

    @contextmanager
    def filming(self, every_ms: int, most: int = 40) -> Iterator[None]:
        """Take a frame now and then; of a slow machine's many frames, so many spread evenly are kept."""
        first = len(self.frames)
        timer = QTimer(interval=every_ms)
        timer.timeout.connect(self.add_frame)
        timer.start()
        yield
        timer.stop()
        taken = self.frames[first:]
        kept = np.linspace(0, len(taken) - 1, min(most, len(taken))).astype(int)
        self.frames[first:] = [taken[number] for number in kept]

    def write_gif(self, path: Path) -> None:
        """Write the film as GIF with one palette for all frames."""
        sample = np.concatenate(self.frames[:: max(1, len(self.frames) // 12)])
        # Median cut, the default, merges the colours of small structures.
        palette = Image.fromarray(sample).quantize(256, Image.Quantize.FASTOCTREE)
        plain = Image.Dither.NONE
        film = [Image.fromarray(one).quantize(palette=palette, dither=plain) for one in self.frames]
        film[0].save(path, save_all=True, append_images=film[1:], duration=FRAME_MS, loop=0, optimize=True)
