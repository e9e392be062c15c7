"""Headless Chromium for tests: the system's own browser and driver, an empty profile, nothing fetched."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

DEADLINE = 60.0  # seconds for one script or page
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1000,800",
)


@contextmanager
def chromium() -> Iterator[Chrome]:
    """One browser process, ended with the context."""
    with TemporaryDirectory(prefix="llamaserver-chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = _program("chromium")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = Chrome(options=options, service=Service(_program("chromedriver")))
        try:
            driver.set_script_timeout(DEADLINE)
            driver.set_page_load_timeout(DEADLINE)
            yield driver
        finally:
            driver.quit()


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed; `make programs` installs it"
    return path
