"""Pages in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
)


HOSTILE = '"><img src=x onerror=alert(1)></script><script>document.title="owned"</script>\u202e&lt;b&gt; {{7*7}} ${1}\u2028'


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("chromedriver is not installed (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


def open_page(chrome: Chrome, page: Path, width: int = 1280, theme: str = "light") -> None:
    chrome.get("about:blank")
    chrome.get_log("browser"), chrome.get_log("performance")
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get(page.as_uri())


def console_errors_and_requests(chrome: Chrome) -> list[str]:
    """Return the messages of the console, and every request other than for a file or for data in the page."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [entry["message"] for entry in chrome.get_log("browser")] + [
        url for url in asked if not re.match("file:|data:|about:", url)
    ]


CONTRAST = """
function numbers(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function light(colour) {
  const parts = numbers(colour).slice(0, 3).map((v) => v / 255);
  const [r, g, b] = parts.map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function ground(e) {
  const colour = getComputedStyle(e).backgroundColor;
  return numbers(colour)[3] === 0 && e.parentElement ? ground(e.parentElement) : colour;
}
function contrast(e) {
  const [x, y] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => b - a);
  return (x + 0.05) / (y + 0.05);
}
"""
