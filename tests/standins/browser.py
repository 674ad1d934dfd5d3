"""A page in Chromium, driven through its debugging pipe: evaluates JavaScript, moves the mouse, types and touches."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from os import close, fdopen, pipe
from pathlib import Path
from typing import Any

import pytest


def executable() -> str:
    """Path of Chromium; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or pytest.skip("no chromium is installed")


class Browser:
    """One page.

    Attributes:
        said: Messages of the page's console, refused content and uncaught errors.
        asked: Addresses that the page asked for, without its own and data in it.
    """

    def __init__(self, reader, writer):
        self.reader, self.writer, self.number, self.session = reader, writer, 0, None
        self.said: list[str] = []
        self.asked: list[str] = []
        self.unread = b""
        self.loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": arguments}
        message |= {"sessionId": self.session} if self.session else {}
        self.writer.write(json.dumps(message).encode() + b"\0")
        self.writer.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.unread:
            more = self.reader.read1(2**20)
            assert more, "the browser has ended"
            self.unread += more
        text, _, self.unread = self.unread.partition(b"\0")
        message = json.loads(text)
        arguments = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Log.entryAdded":
                self.said.append(arguments["entry"]["text"])
            case "Runtime.consoleAPICalled":
                self.said.append(str(arguments["args"]))
            case "Runtime.exceptionThrown":
                self.said.append(str(arguments["exceptionDetails"]))
            case "Network.requestWillBeSent":
                address = arguments["request"]["url"]
                if not address.startswith(("data:", "file:", "about:")):
                    self.asked.append(address)
        return message

    def open(self, path: Path, width: int = 1280, height: int = 900, touch: bool = False) -> None:
        self.resize(width, height, touch)
        self.go(path.as_uri())

    def resize(self, width: int, height: int, touch: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def go(self, address: str) -> None:
        self.loaded = False
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self.receive()

    def js(self, expression: str) -> Any:
        """Value of an expression, as JSON can represent it."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def set(self, name: str, value: str) -> None:
        """Chooses an option of a control."""
        self.js(
            f"(() => {{ const e = document.getElementById('{name}'); e.value = '{value}'; "
            "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change')); })()"
        )

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, "Tab": 9}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in ``folder``, ended with the block."""
    (to_read, to_write), (own_read, own_write) = pipe(), pipe()
    command = [executable(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]
    command += [f"--user-data-dir={folder}"]
    shell = ["bash", "-c", f'exec "$0" "$@" 3<&{to_read} 4>&{own_write}', *command]
    with (
        subprocess.Popen(shell, pass_fds=(to_read, own_write), stderr=subprocess.DEVNULL) as process,
        fdopen(own_read, "rb") as reader,
        fdopen(to_write, "wb") as writer,
    ):
        for of_the_browser in (to_read, own_write):
            close(of_the_browser)
        try:
            yield Browser(reader, writer)
        finally:
            process.terminate()
