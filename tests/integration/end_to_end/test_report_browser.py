"""The report, and the page of doubted labels, in a real browser.

It is driven over the Chrome DevTools Protocol through a pipe, so no port is opened and no library is needed.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from doubted_runs import folder_run, read_back
from label_runs import NOISY, digits, label_run, noisy, one_sided
from run_folders import Suite

from analysis.__main__ import main

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")

COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
EPOCHS, CODES = 5, {"ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36, "k": 75, "r": 82, "u": 85}


class Browser:
    """A headless Chromium with one page; ``events`` are what it said since the page was opened."""

    def __init__(self, profile: Path) -> None:
        # The browser reads from 3 and writes to 4.
        command = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "browser", str(CHROMIUM), *flags, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "HOME": str(profile)},
        )
        self.events: list[dict[str, Any]] = []
        self._number, self._session = 0, {}
        page = next(item for item in self.call("Target.getTargets")["targetInfos"] if item["type"] == "page")
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        return self._until(lambda answer: answer.get("id") == self._number)["result"]

    def _until(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first wanted event since the page was opened, which may have come before the last answer."""
        while not (wanted := [event for event in self.events if is_wanted(event)]):
            # Nothing is read at the zero that ends a message, and at the end.
            content = b"".join(iter(lambda: self.process.stdout.read(1).strip(b"\0"), b""))
            assert content, "the browser has gone"
            self.events.append(json.loads(content))
        return wanted[0]

    def open(self, path: Path, *, width: int) -> None:
        """Show a file in a window of that width."""
        self.events = []
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda event: event.get("method") == "Page.loadEventFired")

    def value(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def of(self, name: str, rest: str) -> Any:
        """Return ``rest`` of the element with that id."""
        return self.value(f"document.getElementById('{name}').{rest}")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=CODES[key])

    def choose(self, name: str, value: str | int) -> None:
        self.of(name, f"value = {value!r}")
        self.of(name, "dispatchEvent(new Event('change'))")

    def options(self, name: str) -> list[str]:
        return list(self.value(f"[...document.getElementById('{name}').options].map((o) => o.textContent + (o.disabled ? ', none' : ''))"))

    @property
    def live(self) -> str:
        """What a screen reader is told."""
        return str(self.of("live", "textContent"))


SPEC = """\
title: Labels on digits, with a title that is long enough to need two lines on a telephone
kind: figure
caption: Labels.
rows:
  - {label: Class labels, set: {method: class_labels}}
  - {label: "</script><script>window.broken = 1</script>", set: {method: instance_labels}}
columns:
  - {label: A column with a long name, set: {noise: none}}
  - {label: Another column with a long name, set: {noise: uniform}}
repeats: {seed: [0]}
panels:
  - {metric: test/accuracy, label: Test accuracy}
"""
TRUE, ANNOTATED = digits().train.labels[:30], noisy(range(30), 0)
WRONG = np.flatnonzero(ANNOTATED != TRUE).tolist()


def labels_of(classes: npt.NDArray[np.int64], moving: int, target: int) -> list[npt.NDArray[np.float64]]:
    """Return labels (30, 10) an epoch, 0.91 on each of ``classes``; the image ``moving`` ends with 0.89 on the class ``target``."""
    blocks = [one_sided(classes, 0.91) for _ in range(EPOCHS)]
    for block, share in zip(blocks, np.linspace(0.0, 0.88, EPOCHS), strict=True):
        block[moving, classes[moving]] -= share
        block[moving, target] += share
    return blocks


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one figure, with class labels and instance labels over five epochs."""
    folder = tmp_path_factory.mktemp("report")
    suite = Suite(folder, SPEC)
    for (row, column, _), name in suite.names.items():
        noise, classes = (NOISY, ANNOTATED) if "Another" in column else ({}, TRUE)
        if row == "Class labels":
            blocks = [np.full((1, 10), value) for value in np.linspace(0.1, 0.5, EPOCHS)]
            label_run(suite.runs / name, range(30), blocks, kind="class", **noise)
        else:
            moving, target = (WRONG[0], int(TRUE[WRONG[0]])) if noise else (7, 2)
            label_run(suite.runs / name, range(30), labels_of(classes, moving, target), **noise)
    assert main(["report", str(suite.path), "--runs", str(suite.runs), "--out", str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_complained_of_or_asked_for_and_nothing_is_too_wide(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    for run in (0, 3):
        browser.choose("run", run)
        browser.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert browser.value("document.documentElement.scrollWidth") <= width
    assert not [event for event in browser.events if event.get("method") in COMPLAINTS]
    urls = [event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith("data:")] == [page.as_uri()]
    assert browser.value("window.broken") is None
    # All images have come: those of the figure and of the label.
    assert browser.value("[...document.images].filter((one) => !one.hidden).map((one) => one.naturalWidth > 0)") == [True, True]


def test_labels_say_their_numbers_and_the_list_can_be_filtered(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert browser.live == "Class 0, Epoch 1 of 5: class 0 90.00%, each other (9) 1.11%."
    assert browser.of("filter-box", "hidden")
    browser.choose("run", 2)
    # The first is the one that moved most; the classes that were most probable in any epoch are named, the others summed.
    assert browser.live.startswith("Image 7, Epoch 1 of 5: class 9 91.00%, class 2 1.00%, class 0 1.00%")
    assert browser.live.endswith("other 4, sum 4.00%.")
    assert browser.of("caption", "textContent").endswith("class 9, which is right. Most probable at first: class 9; in the end: class 2.")
    for _ in range(2):
        browser.of("epoch", "focus()")
        browser.press("ArrowRight")
    browser.choose("filter", "Spoilt")
    assert "Image 7, Epoch 3 of 5" in browser.live
    browser.choose("run", 3)
    # What was looked at stays, as far as this run has it; it has nothing that was spoilt.
    assert "Image 7, Epoch 3 of 5" in browser.live
    wanted = ["All that are listed (30)", "Most probable class changed (1)", "Repaired (1)", "Spoilt (0), none"]
    assert browser.options("filter")[:5] == [*wanted, f"Still wrong ({len(WRONG) - 1})"]
    browser.choose("filter", "Repaired")
    repaired = f"{WRONG[0]}: {ANNOTATED[WRONG[0]]} → {TRUE[WRONG[0]]}"
    assert browser.options("item") == [repaired]


def test_the_keyboard_changes_the_epoch(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    browser.choose("run", 2)
    for focus in ("play", "epoch", "fit"):
        browser.of(focus, "focus()")
        for key, epoch in (("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", 5), ("ArrowRight", 5), ("Home", 1)):
            browser.press(key)
            assert f"Epoch {epoch} of 5" in browser.live, (focus, key)
            assert browser.of("epoch", "value") == str(epoch - 1)
    browser.of("item", "focus()")
    browser.press("ArrowRight")
    assert "Epoch 1 of 5" in browser.live


def test_doubted_labels_are_reviewed_by_key_and_what_is_saved_is_read_back(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    assert main(["audit", str(folder_run(tmp_path)), "--out", str(tmp_path)]) == 0
    browser.open(tmp_path / "audit.html", width=390)
    # The first is rejected, the second kept, the third rejected, then taken back, and given another class.
    for key in ("r", "k", "r", "ArrowLeft", "u"):
        browser.press(key)
    assert browser.of("about", "textContent") == "17 of 17 images shown; 1 kept, 1 rejected."
    third = int(browser.of("name", "textContent").split(",")[0])
    browser.choose("other", (third + 2) % 3)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "mine"), eventsEnabled=True)
    browser.of("save", "click()")
    browser._until(lambda event: event.get("params", {}).get("state") == "completed")
    raw = read_back(tmp_path, "reviewed_labels.csv")
    assert dict(enumerate(raw.train.labels.tolist())) == {number: number % 3 for number in range(18)} | {3: 1, third: (third + 2) % 3}
    assert np.flatnonzero(raw.verified).tolist() == sorted([0, 3, 7, third])
    assert browser.value("document.documentElement.scrollWidth") <= 390
    assert browser.value("window.broken") is None
    assert not [event for event in browser.events if event.get("method") in COMPLAINTS]
