"""The report in a real browser, driven over the Chrome DevTools Protocol through a pipe, so no port is opened and no library is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from analysis.images import TrainingSet
from analysis.page import Files
from analysis.report import make_report
from analysis.tables import make_table
from repro.files import write_json
from repro.manifest import seal
from sweeps.plan import Plan, PlannedCell, PlannedRun, write_plans
from sweeps.spec import TableSpec, expand, load_spec

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")

#: A page on two busy cores.
WAIT_S = 300.0
EPOCHS = 5


def _pipe() -> tuple[int, int]:
    """Return both ends of a pipe, numbered so that neither is a 3 or a 4, which the browser is given."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


class Browser:
    """A headless Chromium with one page, and everything that the page complained of or asked for."""

    def __init__(self, profile: Path) -> None:
        from_us, to_browser = _pipe()
        from_browser, to_us = _pipe()
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
        # The browser reads from 3 and writes to 4.
        command = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "browser", str(CHROMIUM), *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(from_us)
        os.close(to_us)
        os.set_blocking(from_browser, False)
        self._out, self._in = to_browser, from_browser
        self._buffer = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        page = next(item for item in self.call("Target.getTargets")["targetInfos"] if item["type"] == "page")
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == self._number)
        assert "error" not in answer, answer
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S
        while True:
            while b"\0" not in self._buffer:
                assert time.monotonic() < end, "the browser does not answer"
                try:
                    part = os.read(self._in, 1 << 20)
                except BlockingIOError:
                    time.sleep(0.01)
                    continue
                assert part, "the browser has gone"
                self._buffer += part
            line, self._buffer = self._buffer.split(b"\0", 1)
            message = json.loads(line)
            self._note(message)
            if wanted(message):
                return message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method in ("Runtime.exceptionThrown", "Log.entryAdded") or (
            method == "Runtime.consoleAPICalled" and parameters["type"] != "log"
        ):
            self.complaints.append(json.dumps(parameters))
        elif method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, path: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of that size; what it complains of and asks for is counted from here."""
        self.complaints, self.requests, self._loaded = [], [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.as_uri())
        if not self._loaded:
            self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, which goes to what has the focus."""
        code = {"ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, selector: str = "html") -> None:
        """Write a picture of an element, all of it, as PNG."""
        box = self.value(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
        )
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip={**box, "scale": 1})
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        os.write(self._out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._out)
            os.close(self._in)


SPEC = """\
title: Labels on digits, with a title that is long enough to need two lines on a telephone
kind: table
caption: One table.
rows:
  - {label: Class labels, set: {method: class_labels}}
  - {label: "</script><script>window.broken = 1</script>", set: {method: instance_labels}}
columns:
  - {label: A column with a long name, set: {noise: none}}
  - {label: Another column with a long name, set: {noise: uniform}}
  - {label: A third column with a long name, set: {noise: flip}}
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last, scale: percent}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one table, with class labels and instance labels over five epochs."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "made.yaml").write_text(SPEC)
    spec = load_spec(str(folder / "made.yaml"))
    assert isinstance(spec, TableSpec)
    runs: dict[str, PlannedRun] = {}
    cells = []
    for number, cell in enumerate(expand(spec)):
        name = f"run-{number}"
        runs[name] = PlannedRun(name, (), {"optim.epochs": EPOCHS}, "done", (), (spec.name,), name)
        repeats = tuple(variant.repeat_values for variant in cell.variants)
        cells.append(PlannedCell(spec.name, cell.row, cell.column, (name,), repeats, cell.skip))
        _make_run(folder / "runs" / name, "class" if cell.row == "Class labels" else "instance")
    write_plans(Plan(folder / "runs", (spec,), runs, tuple(cells)))
    deviations = "# D\n\n| id | a | b |\n|---|---|---|\n" + "| A1 | " + " | ".join(["`a_long_name.of_a_setting=1` " * 4] * 2) + " |\n"
    files = make_table(spec, folder / "runs")
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="80"><rect width="900" height="80" fill="#0072b2"/></svg>'
    contents = files.contents | {"made.md": (files.page + "\n![A wide figure](made.svg)\n").encode(), "made.svg": drawing}
    content = make_report(
        [Files(spec, contents)], folder / "runs", deviations=deviations, command="make", training_set_of=lambda run: _training_set()
    )
    (folder / "report.html").write_bytes(content)
    return folder / "report.html"


def _training_set() -> TrainingSet:
    images = (np.arange(30 * 64).reshape(30, 1, 8, 8) % 256).astype(np.uint8)
    return TrainingSet("digits", images, np.arange(30) % 10, tuple("0123456789"), "x")


def _make_run(folder: Path, kind: str) -> None:
    (folder / "labels").mkdir(parents=True)
    write_json(folder / "status.json", {"state": "done", "ended": "2025-01-02T03:04:05Z"})
    fields = {"dataset.name": "digits", "noise.name": "none", "seed": 0}
    write_json(folder / "identity.json", {"schema": 1, "run_id": folder.name, "fields": fields})
    write_json(folder / "final.json", {"test/accuracy": {"last": 0.9, "best_val": 0.9, "best_test": 0.9}})
    write_json(folder / "provenance.json", {"git": {"sha": "0" * 40, "dirty_sha256": None}, "versions": {}, "device": "cpu"})
    write_json(folder / "cost.json", {"wall_s": 36.0, "gpu_hours": 0.0})
    values = _labels() if kind == "instance" else np.linspace(0.1, 0.5, EPOCHS, dtype=np.float32)[:, None, None].repeat(10, axis=2)
    values.astype("<f4").tofile(folder / "labels" / "values.f32")
    np.arange(30, dtype="<i8").tofile(folder / "labels" / "indices.i64")
    layout = {"schema": 1, "kind": kind, "file": "values.f32", "dtype": "<f4", "when": "after", "indices": "indices.i64"}
    write_json(folder / "labels" / "layout.json", layout | {"shape": list(values.shape), "num_instances": 30})
    seal(folder)


def _labels() -> npt.NDArray[np.float32]:
    """Labels (EPOCHS, 30, 10) of which image 7 moves from class 7 to class 2."""
    labels = np.full((EPOCHS, 30, 10), 0.01, np.float32)
    labels[:, np.arange(30), np.arange(30) % 10] = 0.91
    share = np.linspace(0, 0.88, EPOCHS, dtype=np.float32)
    labels[:, 7, 7] -= share
    labels[:, 7, 2] += share
    return labels


def _choose(browser: Browser, name: str, value: int) -> None:
    browser.value(f"(() => {{ const e = document.getElementById('{name}'); e.value = {value}; e.dispatchEvent(new Event('change')); }})()")


def _live(browser: Browser) -> str:
    return str(browser.value("document.getElementById('live').textContent"))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, False), (360, True)])
def test_nothing_is_complained_of_or_asked_for_and_nothing_is_too_wide(
    browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    for run in (0, 3):
        _choose(browser, "run", run)
        browser.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        browser.screenshot(tmp_path / f"{width}-{run}.png")
        assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    assert browser.value("window.broken") is None
    assert browser.value("document.getElementById('browser').hidden") is False
    # All images have come: those of the figure and of the label.
    shown = "[...document.images].filter((one) => !one.hidden)"
    assert browser.value(f"{shown}.length") == 2
    assert browser.value(f"{shown}.every((one) => one.naturalWidth > 0)")


def test_class_labels_and_instance_labels_say_their_numbers(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert _live(browser) == "Class 0, Epoch 1 of 5: class 0 90.00%, each other (9) 1.11%."
    _choose(browser, "item", 4)
    assert _live(browser).startswith("Class 4, Epoch 1 of 5: class 4 90.00%")
    _choose(browser, "run", 3)
    assert browser.value("document.getElementById('item-label').textContent") == "Training image"
    # The first is the one that moved most; the classes that were most probable in any epoch are named, the others summed.
    assert _live(browser).startswith("Image 7, Epoch 1 of 5: class 7 91.00%, class 2 1.00%, class 0 1.00%")
    assert _live(browser).endswith("other 4, sum 4.00%.")
    caption = str(browser.value("document.getElementById('caption').textContent"))
    assert caption.endswith("Annotated as class 7, rightly. Most probable at first: class 7; in the end: class 2.")


def test_the_keyboard_changes_the_epoch(browser: Browser, page: Path) -> None:
    browser.open(page, width=360)
    _choose(browser, "run", 3)
    for focus in ("play", "epoch", "fit"):
        browser.value(f"document.getElementById('{focus}').focus()")
        for key, epoch in (
            ("ArrowRight", 2),
            ("ArrowRight", 3),
            ("ArrowLeft", 2),
            ("End", 5),
            ("ArrowRight", 5),
            ("Home", 1),
            ("ArrowLeft", 1),
        ):
            browser.press(key)
            assert f"Epoch {epoch} of 5" in _live(browser), (focus, key)
            assert browser.value("Number(document.getElementById('epoch').value)") == epoch - 1
    browser.value("document.getElementById('epoch').focus()")
    browser.press("End")
    assert "class 7 3.00%, class 2 89.00%" in _live(browser)
    assert browser.value("document.getElementById('bars').children[1].querySelector('.fill').style.width") == "89%"
    assert browser.value("document.getElementById('epoch').getAttribute('aria-valuetext')") == "Epoch 5 of 5"


def test_arrows_in_a_list_choose_from_the_list(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.value("document.getElementById('item').focus()")
    browser.press("ArrowRight")
    assert "Epoch 1 of 5" in _live(browser)


def test_play_runs_to_the_end_and_stops(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    before = _live(browser)
    browser.value("document.getElementById('play').click()")
    state = "[document.getElementById('play').getAttribute('aria-pressed'), document.getElementById('epoch').value, "
    state += "document.getElementById('live').textContent]"
    seen = []
    end = time.monotonic() + WAIT_S
    while (now := browser.value(state))[0] == "true":
        assert time.monotonic() < end
        seen.append(now)
        time.sleep(0.05)
    assert len({epoch for _, epoch, _ in seen}) > 2
    # While it plays the spoken text stays.
    assert {live for _, _, live in seen} == {before}
    assert "Epoch 5 of 5" in _live(browser)


def test_every_control_can_be_reached_and_shows_the_focus(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    reached = []
    for _ in range(60):
        browser.press("Tab")
        reached.append(browser.value("document.activeElement.id || document.activeElement.className"))
        outline = browser.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or browser.value("document.activeElement === document.body"), reached[-1]
    assert reached[0] == "skip"
    wanted = ["run", "item", "back", "play", "forward", "epoch", "fit"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted


def test_the_axis_can_be_fitted_and_the_chart_be_clicked(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    top = "document.querySelectorAll('#chart text')[5].textContent"
    assert browser.value(top) == "1.0"
    browser.value("document.getElementById('fit').click()")
    assert browser.value(top) == "0.9"
    browser.value("document.getElementById('chart').scrollIntoView()")
    box = browser.value("(() => { const b = document.querySelector('#chart svg').getBoundingClientRect(); return [b.x, b.y, b.width]; })()")
    # The last epoch is near the right edge.
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=box[0] + box[2] - 14, y=box[1] + 60, button="left", clickCount=1)
    assert "Epoch 5 of 5" in _live(browser)
