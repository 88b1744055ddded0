"""Draw docs/images/page.jpg: the page of `lookalike serve` on the catalogue that `make demo` made.

Needs chromium and its driver.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "images" / "page.jpg"
QUERY = "010-*.jpg"


def main(demo: Path) -> None:
    query = next(iter(sorted((demo / "queries").glob(QUERY)) or sorted((demo / "queries").iterdir())))
    command = [sys.executable, "-m", "lookalike", "serve", str(demo / "shop"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        assert service.stdout is not None
        url = service.stdout.readline().split()[0]
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(argument)
        browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            shown(browser, url, query)
            browser.save_screenshot(str(OUT.with_suffix(".png")))
        finally:
            browser.quit()
            service.terminate()
    Image.open(OUT.with_suffix(".png")).convert("RGB").save(OUT, quality=88, optimize=True)
    OUT.with_suffix(".png").unlink()


def shown(browser: webdriver.Chrome, url: str, query: Path) -> None:
    """The page after a search with the query."""
    browser.set_window_size(1280, 860)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        browser.get(url)
        if browser.find_elements(By.CSS_SELECTOR, "input[type=file]"):
            break
        time.sleep(0.5)
    wait = WebDriverWait(browser, 60)
    browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(query.resolve()))
    wait.until(lambda page: "Looks like it" in page.find_element(By.TAG_NAME, "body").text)
    wait.until(
        lambda page: page.execute_script(
            "return [...document.images].filter(each => each.offsetParent)"
            ".filter(each => each.getBoundingClientRect().top < innerHeight)"
            ".every(each => each.complete && each.naturalWidth)"
        )
    )
    time.sleep(1)  # for what fades in


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "demo")
