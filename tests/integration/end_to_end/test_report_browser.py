"""The report in a real browser, driven over the Chrome DevTools Protocol through a pipe, so no port is opened and no library is needed."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from label_runs import NOISY, label_run, with_noise
from run_folders import Suite

from analysis.reading.images import TrainingSet
from analysis.report.page import make_report

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")

EPOCHS = 5


class Browser:
    """A headless Chromium with one page, and everything that the page complained of or asked for."""

    def __init__(self, profile: Path) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
        # The browser reads from 3 and writes to 4.
        command = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "browser", str(CHROMIUM), *flags, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "HOME": str(profile)},
        )
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
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        """Return the next message, and note what it says of the page."""
        while b"\0" not in self._buffer:
            part = self._process.stdout.read(1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        method, parameters = message.get("method"), message.get("params", {})
        if method in ("Runtime.exceptionThrown", "Log.entryAdded") or (
            method == "Runtime.consoleAPICalled" and parameters["type"] != "log"
        ):
            self.complaints.append(json.dumps(parameters))
        elif method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True
        return message

    def open(self, path: Path, *, width: int, dark: bool = False) -> None:
        """Show a file in a window of that width; what it complains of and asks for is counted from here."""
        self.complaints, self.requests, self._loaded = [], [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._next()

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        code = {"ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36, "Tab": 9}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def choose(self, name: str, value: int) -> None:
        self.value(f"(() => {{ const e = document.getElementById('{name}'); e.value = {value}; e.dispatchEvent(new Event('change')); }})()")

    @property
    def live(self) -> str:
        """What a screen reader is told."""
        return str(self.value("document.getElementById('live').textContent"))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


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
  - {label: A third column with a long name, set: {noise: patrini}}
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
    suite = Suite(folder, SPEC)
    for (row, _, _), name in suite.names.items():
        if row == "Class labels":
            label_run(suite.runs / name, range(30), [np.full((1, 10), value) for value in np.linspace(0.1, 0.5, EPOCHS)], kind="class")
        else:
            noise = NOISY if "third" in name else {}
            label_run(suite.runs / name, range(30), list(_repaired() if noise else _labels()), **noise)
    files = suite.make()
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="80"><rect width="900" height="80" fill="#0072b2"/></svg>'
    contents = files.contents | {"tried.md": (files.page + "\n![A wide figure](tried.svg)\n").encode(), "tried.svg": drawing}
    images = (np.arange(30 * 64).reshape(30, 1, 8, 8) % 256).astype(np.uint8)
    digits = TrainingSet("digits", images, np.arange(30) % 10, tuple("0123456789"), "x")
    content = make_report(
        [replace(files, contents=contents)],
        suite.runs,
        deviations="# D\n\n| id | a | b |\n|---|---|---|\n| A1 | " + " | ".join(["`a_long_name.of_a_setting=1` " * 4] * 2) + " |\n",
        command="make",
        training_set_of=lambda run: digits,
        runs_link="runs",
    )
    (folder / "report.html").write_bytes(content)
    return folder / "report.html"


#: The annotated classes (30,) of the run with noise, whose true classes are 0 to 9 in turn.
ANNOTATED = with_noise(np.arange(30, dtype=np.int64) % 10, 0)
WRONG = [place for place, number in enumerate(ANNOTATED.tolist()) if number != place % 10]


def _repaired() -> npt.NDArray[np.float32]:
    """Labels (EPOCHS, 30, 10) that stay as annotated, but for the first wrong one, which ends at the true class."""
    labels = np.full((EPOCHS, 30, 10), 0.01, np.float32)
    labels[:, np.arange(30), ANNOTATED] = 0.91
    labels[-1, WRONG[0]] = np.eye(10)[WRONG[0] % 10]
    return labels


def _labels() -> npt.NDArray[np.float32]:
    """Labels (EPOCHS, 30, 10) of which image 7 moves from class 7 to class 2."""
    labels = np.full((EPOCHS, 30, 10), 0.01, np.float32)
    labels[:, np.arange(30), np.arange(30) % 10] = 0.91
    share = np.linspace(0, 0.88, EPOCHS, dtype=np.float32)
    labels[:, 7, 7] -= share
    labels[:, 7, 2] += share
    return labels


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, False), (360, True)])
def test_nothing_is_complained_of_or_asked_for_and_nothing_is_too_wide(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    for run in (0, 3):
        browser.choose("run", run)
        browser.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
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
    assert browser.live == "Class 0, Epoch 1 of 5: class 0 90.00%, each other (9) 1.11%."
    browser.choose("item", 4)
    assert browser.live.startswith("Class 4, Epoch 1 of 5: class 4 90.00%")
    browser.choose("run", 3)
    assert browser.value("document.getElementById('item-label').textContent") == "Training image"
    # The first is the one that moved most; the classes that were most probable in any epoch are named, the others summed.
    assert browser.live.startswith("Image 7, Epoch 1 of 5: class 7 91.00%, class 2 1.00%, class 0 1.00%")
    assert browser.live.endswith("other 4, sum 4.00%.")
    caption = str(browser.value("document.getElementById('caption').textContent"))
    assert caption.endswith("Annotated as class 7, rightly. Most probable at first: class 7; in the end: class 2.")


def test_the_list_of_images_says_what_became_of_their_labels_and_can_be_filtered(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert browser.value("document.getElementById('filter-box').hidden")
    browser.choose("run", 5)
    assert not browser.value("document.getElementById('filter-box').hidden")
    filters = "[...document.getElementById('filter').options].map((one) => one.textContent + (one.disabled ? ', none' : ''))"
    left = len(WRONG) - 1
    assert browser.value(filters)[1:] == [
        *("Moved most (8 of 30)", "Drawn at random (8 of 30)", "Repaired (1)", "Spoilt (0), none"),
        f"Still wrong ({min(8, left)} of {left})" if left > 8 else f"Still wrong ({left})",
    ]
    listed = "[...document.getElementById('item').options].map((one) => one.textContent)"
    browser.choose("filter", 2)
    repaired = f"{WRONG[0]}: {ANNOTATED[WRONG[0]]} → {WRONG[0] % 10}"
    assert browser.value(listed) == [repaired]
    assert f"Image {WRONG[0]}, Epoch 1 of 5" in browser.live
    browser.choose("filter", 4)
    stayed = {f"{place}: {ANNOTATED[place]} → {ANNOTATED[place]}, is {place % 10}" for place in WRONG[1:]}
    assert set(browser.value(listed)) <= stayed
    browser.choose("filter", -1)
    assert repaired in browser.value(listed)


def test_epoch_filter_and_image_stay_when_the_run_changes(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.value("document.getElementById('epoch').focus()")
    for _ in range(2):
        browser.press("ArrowRight")
    browser.choose("run", 3)
    browser.choose("filter", 3)
    assert "Image 7, Epoch 3 of 5" in browser.live
    browser.choose("run", 4)
    assert "Image 7, Epoch 3 of 5" in browser.live
    assert browser.value("document.getElementById('filter').selectedOptions[0].textContent") == "Spoilt (1)"
    browser.choose("run", 1)
    # A class is no image: the first of its list.
    assert "Class 0, Epoch 3 of 5" in browser.live


def test_controls_have_names_for_those_who_hear_the_page(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.choose("run", 3)
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node["name"]["value"]) for node in nodes if not node["ignored"] and "name" in node}
    roles = {"combobox", "button", "slider", "checkbox", "region", "image"}
    assert not {role for role, name in named if role in roles and not name}
    assert named >= {
        *(("combobox", "Run"), ("combobox", "Show"), ("combobox", "Training image"), ("slider", "Epoch")),
        *(("button", "One epoch back"), ("button", "One epoch on"), ("checkbox", "Fit the axis to the values")),
        *(("image", "Probabilities of Image 7 over the epochs"), ("image", "Training image 7"), ("navigation", "Contents")),
    }


def test_the_keyboard_changes_the_epoch(browser: Browser, page: Path) -> None:
    browser.open(page, width=360)
    browser.choose("run", 3)
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
            assert f"Epoch {epoch} of 5" in browser.live, (focus, key)
            assert browser.value("Number(document.getElementById('epoch').value)") == epoch - 1
    browser.value("document.getElementById('epoch').focus()")
    browser.press("End")
    assert "class 7 3.00%, class 2 89.00%" in browser.live
    assert browser.value("document.getElementById('bars').children[1].querySelector('.fill').style.width") == "89%"
    assert browser.value("document.getElementById('epoch').getAttribute('aria-valuetext')") == "Epoch 5 of 5"


def test_arrows_in_a_list_choose_from_the_list(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.value("document.getElementById('item').focus()")
    browser.press("ArrowRight")
    assert "Epoch 1 of 5" in browser.live


def test_play_runs_to_the_end_and_stops(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    before = browser.live
    browser.value("document.getElementById('play').click()")
    state = "[document.getElementById('play').getAttribute('aria-pressed'), document.getElementById('epoch').value, "
    state += "document.getElementById('live').textContent]"
    seen = []
    end = time.monotonic() + 300.0
    while (now := browser.value(state))[0] == "true":
        assert time.monotonic() < end
        seen.append(now)
        time.sleep(0.05)
    assert len({epoch for _, epoch, _ in seen}) > 2
    # While it plays the spoken text stays.
    assert {live for _, _, live in seen} == {before}
    assert "Epoch 5 of 5" in browser.live


def test_every_control_can_be_reached_and_shows_the_focus(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.choose("run", 3)
    reached = []
    for _ in range(60):
        browser.press("Tab")
        reached.append(browser.value("document.activeElement.id || document.activeElement.className"))
        outline = browser.value("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or browser.value("document.activeElement === document.body"), reached[-1]
    assert reached[0] == "skip"
    wanted = ["run", "filter", "item", "back", "play", "forward", "epoch", "fit"]
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
    assert "Epoch 5 of 5" in browser.live
