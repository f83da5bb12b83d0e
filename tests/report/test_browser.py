"""The page in a real browser: nothing to complain about, something to see, in every light and on paper."""

from __future__ import annotations

import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxslim.report.html import to_html
from onnxslim.report.report import Report
from tests.report import sample

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser: none of {', '.join(BROWSERS)} is on PATH"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
DARK = "--blink-settings=preferredColorScheme=0"


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    def run(page: str, *options: str) -> str:
        """What the browser says about the page."""
        assert BROWSER is not None
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options, file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout + done.stderr

    return run


def pixels(path: Path) -> list[bytes]:
    """The rows of a PNG of 8 bits a channel, by its specification and without an image library."""
    data, at, found, width, depth = path.read_bytes(), 8, b"", 0, 0
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, depth = int.from_bytes(content[:4], "big"), {2: 3, 6: 4}[content[9]]
            assert content[8] == 8 and content[12] == 0
        found += content if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride, above, rows = zlib.decompress(found), width * depth, bytes(width * depth), []
    for start in range(0, len(raw), stride + 1):
        row = bytearray(raw[start + 1 : start + 1 + stride])
        kind_of_filter = raw[start]
        for i, value in enumerate(row):
            left, up = (row[i - depth] if i >= depth else 0), above[i]
            corner = above[i - depth] if i >= depth else 0
            guess = left + up - corner
            near = min((left, up, corner), key=lambda v: abs(guess - v))
            row[i] = (value + (0, left, up, (left + up) // 2, near)[kind_of_filter]) & 255
        above = bytes(row)
        rows.append(bytes(b for i, b in enumerate(above) if i % depth < 3))
    return rows


def complaints(said: str) -> list[str]:
    return [line for line in said.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("report", [sample.resnet, sample.single, sample.hostile], ids=lambda f: f.__name__)
@pytest.mark.parametrize("options", [(), (DARK,)], ids=["light", "dark"])
def test_a_browser_has_nothing_to_complain_about(
    report: Callable[[], Report], options: tuple[str, ...], browse: Callable[..., str], tmp_path: Path
) -> None:
    shot = tmp_path / "shot.png"
    said = browse(to_html(report()), f"--screenshot={shot}", "--window-size=500,400", *options)
    assert not complaints(said)
    rows = pixels(shot)
    assert (len(rows), len(rows[0])) == (400, 1500)
    colors = {row[i : i + 3] for row in rows for i in range(0, len(row), 3)}
    assert len(colors) > 50  # letters, lines and areas, not one empty sheet
    corner = rows[0][:3]
    assert max(corner) < 64 if options else min(corner) > 192


def test_complaints_would_be_seen(browse: Callable[..., str], tmp_path: Path) -> None:
    page = to_html(sample.resnet()).replace("<main>", "<main><script>alert(1)</script>")
    said = browse(page, f"--screenshot={tmp_path / 'shot.png'}", "--window-size=500,400")
    assert any("Content Security Policy" in line for line in complaints(said))


def test_nothing_is_wider_than_a_phone(browse: Callable[..., str], tmp_path: Path) -> None:
    """Beside a page of 390 pixels the frame stays as it was; a page too wide would show in its scroll bar."""
    for report in (sample.resnet, sample.hostile):
        (tmp_path / "inner.html").write_text(to_html(report()), encoding="utf-8")
        probe = (
            "<body><iframe src='inner.html' style='border:0;width:390px;height:700px'></iframe><script>"
            "onload = () => { const page = document.querySelector('iframe').contentDocument;"
            "console.log('width ' + page.documentElement.scrollWidth) }</script>"
        )
        said = browse(probe, "--allow-file-access-from-files", f"--screenshot={tmp_path / 'shot.png'}")
        assert [line for line in complaints(said) if '"width 390"' in line], said


def test_the_page_can_be_printed(browse: Callable[..., str], tmp_path: Path) -> None:
    said = browse(to_html(sample.resnet()), f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert not complaints(said)
    paper = (tmp_path / "page.pdf").read_bytes()
    assert paper.startswith(b"%PDF") and 2 <= paper.count(b"/Type /Page\n") <= 12
