"""A headless Chromium, driven over its DevTools pipe: loads a page, moves the pointer, says what happened."""

import json
import os
import select
import shutil
import subprocess
from contextlib import contextmanager

_PATIENCE_SECONDS = 60
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser():
    """The path of a Chromium or Chrome, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. `events` is every message that the browser sent by itself, as (method, parameters)."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from = to_browser, from_browser
        self._last, self._buffer, self._session = 0, b"", {}
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and wait for its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append((answer["method"], answer["params"]))

    def _message(self):
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], _PATIENCE_SECONDS)[0], "the browser says nothing"
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser went away"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path):
        """Load a file and wait until it is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            message = self._message()
            self.events.append((message["method"], message["params"]))

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def move_pointer(self, x, y):
        """A real pointer move to a point of the window, in pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def requests(self):
        """The addresses that the page asked for, itself excluded."""
        asked = [p["request"]["url"] for method, p in self.events if method == "Network.requestWillBeSent"]
        return [url for url in asked[1:] if not url.startswith("data:")]

    def errors(self):
        """What went wrong in the page: exceptions, console errors, log entries."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [parameters for method, parameters in self.events if method in kinds]


@contextmanager
def browser(folder, width=1200, height=900):
    """A browser with a profile of its own in `folder`."""
    browser_reads, to_browser = os.pipe()
    from_browser, browser_writes = os.pipe()

    arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-pipe",
        "--no-first-run",
        "--force-device-scale-factor=1",
        f"--user-data-dir={folder}",
        f"--window-size={width},{height}",
    ]
    # DevTools reads descriptor 3 and writes descriptor 4.
    onto_3_and_4 = f'exec "$@" 3</dev/fd/{browser_reads} 4>/dev/fd/{browser_writes}'
    process = subprocess.Popen(
        ["sh", "-c", onto_3_and_4, "sh", find_browser(), *arguments],
        pass_fds=(browser_reads, browser_writes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        yield Browser(to_browser, from_browser)
    finally:
        process.terminate()
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
