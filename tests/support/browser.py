"""Debian's Chromium, by way of its driver and nothing else: WebDriver is JSON over HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that the standard gives references to elements
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
ENTER, TAB = "\ue007", "\ue004"


def missing() -> str | None:
    """Return why there is no browser; ``None`` if there is one."""
    wanted = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(wanted)} not installed (apt-get install chromium chromium-driver)" if wanted else None


class Browser:
    """One window.

    Args:
        width: Its width, in pixels.
        height: Its height.
        dark: Whether the user prefers dark pages.
    """

    def __init__(self, width: int = 1100, height: int = 900, *, dark: bool = False) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = ["chromedriver", "--port=0"]
        self._driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._driver.stdout is not None
        self._url = ""
        for line in self._driver.stdout:
            if "started successfully on port" in line:
                self._url = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}/session"
                break
        arguments = [*FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}"]
        options = {"goog:chromeOptions": {"binary": shutil.which("chromium"), "args": arguments}}
        session = self._ask("POST", "", {"capabilities": {"alwaysMatch": options}})["sessionId"]
        self._url += f"/{session}"
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **params: Any) -> Any:
        """Give the browser one of its own commands."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def go(self, url: str) -> None:
        """Open a page, and wait until it is there."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page; the page's own policy does not hold for it."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any) -> Any:
        """Run a script that calls its last argument when it is done."""
        return self._ask("POST", "/execute/async", {"script": script, "args": list(arguments)})

    def click(self, xpath: str) -> None:
        """Click an element; it scrolls into view, as a person would scroll."""
        found = self._ask("POST", "/element", {"using": "xpath", "value": xpath})
        self._ask("POST", f"/element/{found[ELEMENT]}/click", {})

    def press(self, keys: str) -> None:
        """Press keys one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def picture(self, path: Path) -> None:
        """Keep what can be seen."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """Close the window and end the driver."""
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.communicate()
            self._profile.cleanup()
