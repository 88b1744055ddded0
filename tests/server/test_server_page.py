"""The page in a real browser, against the real service on a small catalogue of drawn garments."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from served import Running

import lookalike
from lookalike import weights
from lookalike.datasets.garments import generated_garments
from lookalike.server.pages import assets
from lookalike.settings import Settings, open_captioner
from lookalike.testing.loopback import Loopback, Say, schema_of

ITEMS, PAGE = 25, 24
AXE = "axe-core@4.14.1"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
MARKUP = "<img src=x onerror=\"document.title='broken into'\">"
QUOTED = "d'or"
PATIENCE = 30  # seconds


# What is served


@dataclass(frozen=True)
class Floor:
    """A service whose catalogue has captions, and a photo of one of its items on another background."""

    running: Running
    photo: Path
    item: str
    box: tuple[int, int, int, int]  # of the item in the photo


@pytest.fixture(scope="module")
def floor(serve: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floor]:
    home = tmp_path_factory.mktemp("page")
    table = generated_garments(home / "garments", ITEMS, seed=3)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[0]["title"] = MARKUP
    rows[1]["color"] = QUOTED
    sold = rows[2]
    front = Image.open(table.parent / sold["path"])
    for name, other in (
        ("close", front.crop((100, 100, 400, 400))),
        ("turned", front.rotate(8, fillcolor="white")),
    ):
        other.save(table.parent / f"{name}.jpg")
        rows.append({**sold, "path": f"{name}.jpg"})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    box = (330, 120, 842, 632)
    random = np.random.default_rng(0)
    photo = Image.fromarray(random.normal((150, 140, 120), 9, (700, 1000, 3)).clip(0, 255).astype(np.uint8))
    photo.paste(front, box[:2])
    photo.save(home / "photo.jpg", quality=90)
    settings = Settings(encoder="compact", regime="train+gallery+query")
    with lookalike.open(home / "shop", settings) as catalogue:
        catalogue.add(table, captioner=open_captioner("palette"))
    with Loopback(_mistaken, delay_s=0.7) as model, pytest.MonkeyPatch.context() as patch:
        (home / ".cache").mkdir()  # answers of this model are nobody else's
        (home / ".cache" / "lookalike").mkdir()
        (home / ".cache" / "lookalike" / "minilm").symlink_to(weights.default_folder() / "minilm")
        patch.setenv("HOME", str(home))
        running = serve(home / "shop", "--captions", f"openai:{model.url}", "--vlm", "vlm")
        yield Floor(running, home / "photo.jpg", sold["item"], box)


def _mistaken(body: dict[str, Any]) -> Say:
    """A model that is right about the cut and wrong about the colour."""
    schema = schema_of(body)
    assert schema is not None
    said: dict[str, Any] = {"category": "short sleeve outwear", "colour": "green", "fit": "slim"}
    for name, part in schema["properties"].items():
        known = part.get("enum", part.get("items", {}).get("enum", []))
        if said.get(name) not in known:
            said[name] = [] if part.get("type") == "array" else "not_visible"
    return Say(json.dumps({name: said[name] for name in schema["properties"]}))


# The browser


@pytest.fixture(scope="module")
def chrome() -> Iterator[webdriver.Chrome]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.fail("the page is tested in Chromium: apt-get install chromium chromium-driver", pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900",
        "--disable-gpu",
        "--force-prefers-reduced-motion",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The accessibility checker's script, out of its package."""
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", "--loglevel=error", "--ignore-scripts", AXE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{AXE} is fetched by npm: {done.stderr.strip()}", pytrace=False)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


class Page:
    """The page as its users have it: what is seen is asked of the browser, what is done is done in it."""

    def __init__(self, chrome: webdriver.Chrome, url: str) -> None:
        self.chrome, self.url = chrome, url

    def open(self, path: str = "/") -> None:
        self.chrome.get(self.url + path)
        if path == "/":
            self.wait(lambda: self.all("#shelf .tile img.there") or self.text("#notice"))

    def wait(self, until: Callable[[], Any]) -> Any:
        return WebDriverWait(self.chrome, PATIENCE, 0.05).until(lambda _: until())

    def one(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        return [str(text) for text in self.run(script, selector)]

    def run(self, script: str, *arguments: object) -> Any:
        return self.chrome.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def press(self, *keys: str) -> None:
        ActionChains(self.chrome).send_keys(*keys).perform()

    def choose(self, photo: Path) -> None:
        self.one("#file").send_keys(str(photo))
        self.settled()

    def settled(self) -> None:
        """Wait until nothing is under way any more, the caption included."""
        self.wait(lambda: self.one("#hits").get_attribute("aria-busy") == "false" and self.titles())
        self.wait(lambda: not self.all("#caption.waiting"))

    def searching(self, act: Callable[[], object]) -> None:
        """Do what makes the page search, and wait for it."""
        self.run("performance.clearResourceTimings()")
        act()
        self.wait(lambda: self.run(
            "return performance.getEntriesByType('resource').some(({name}) => name.endsWith('/v1/search'))"
        ))  # fmt: skip
        self.settled()

    def titles(self) -> list[str]:
        return self.texts("#list .card .name")

    def chip(self, name: str) -> WebElement:
        return next(each for each in self.all("#regions .chip") if each.text == name)

    def pressed(self) -> list[str]:
        return self.texts("#regions .chip[aria-pressed=true]")

    def box(self) -> list[float]:
        """The box that is searched, in parts of the picture: left, top, width, height."""
        style = self.run("const {left, top, width, height} = document.getElementById('box').style;"
                         "return [left, top, width, height]")  # fmt: skip
        return [float(part.rstrip("%")) / 100 for part in style]

    def focused(self) -> str:
        return str(self.run("return document.activeElement.id || document.activeElement.className"))

    def drag_by_finger(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Over the photo, in parts of it."""
        place = self.run("return document.getElementById('frame').getBoundingClientRect().toJSON()")
        for step in range(12):
            part = min(step, 10) / 10
            x, y = ((1 - part) * one + part * other for one, other in zip(start, end, strict=True))
            at = [{"x": place["x"] + x * place["width"], "y": place["y"] + y * place["height"]}]
            kind = ("touchStart", "touchMove", "touchEnd")[(step > 0) + (step == 11)]
            about = {"type": kind, "touchPoints": [] if kind == "touchEnd" else at}
            self.chrome.execute_cdp_cmd("Input.dispatchTouchEvent", about)

    def resize(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.chrome.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 600})

    def emulate(self, feature: str, value: str) -> None:
        """What the device says of its user's wishes; "" ends it."""
        features = [{"name": feature, "value": value}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def colours(self, scheme: str) -> None:
        self.emulate("prefers-color-scheme", scheme)

    def faults(self, axe: str) -> list[str]:
        """What the accessibility checker finds wrong, and in the dark too little contrast."""
        self.run(axe)
        found = self._violations({"runOnly": RULES, "resultTypes": ["violations"]})
        self.colours("dark")
        found += self._violations({"runOnly": {"type": "rule", "values": ["color-contrast"]}})
        self.colours("light")
        return found

    def _violations(self, rules: object) -> list[str]:
        self.run("""
            for (const each of document.getAnimations()) {
                if (each.effect.getTiming().iterations !== Infinity) each.finish(); // half faded in is pale
            }""")
        told = self.chrome.execute_async_script(  # type: ignore[no-untyped-call]
            "const done = arguments[1]; axe.run(document, arguments[0]).then(done)", rules
        )
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in told["violations"]]


@pytest.fixture
def page(floor: Floor, chrome: webdriver.Chrome) -> Iterator[Page]:
    """The page, freshly opened; nothing may complain in the browser's console."""
    opened = Page(chrome, floor.running.url)
    chrome.get_log("browser")
    opened.open()
    yield opened
    complaints = [line["message"] for line in chrome.get_log("browser") if line["level"] != "INFO"]
    opened.resize(1280, 900)
    opened.colours("light")
    assert complaints == []


# Files


def test_the_files_are_revalidated_and_tell_what_they_are(floor: Floor) -> None:
    client = floor.running.client
    kinds = {"/": "text/html", "/docs": "text/html", "/favicon.ico": "image/svg+xml"}
    kinds |= {
        "/page/style.css": "text/css",
        "/page/app.js": "text/javascript",
        "/page/icons.svg": "image/svg+xml",
    }
    kinds |= {"/page/app.webmanifest": "application/manifest+json"}
    for path, kind in kinds.items():
        told = client.get(path)
        assert told.status_code == 200 and told.headers["content-type"].startswith(kind), path
        assert told.headers["cache-control"] == "no-cache"
        known = {"If-None-Match": told.headers["etag"]}
        again = client.get(path, headers=known)
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
        head = client.head(path)
        assert head.status_code == 200 and head.headers["etag"] == told.headers["etag"] and not head.content


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpages.py", "%2e%2e", "style.css%00"])
def test_only_its_own_files_are_served(floor: Floor, name: str) -> None:
    told = floor.running.client.get(f"/page/{name}")
    assert told.status_code == 404
    assert told.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_is_inline_or_from_elsewhere(floor: Floor, path: str) -> None:
    told = floor.running.client.get(path)
    policy = told.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|https?://", told.text)
    named = re.findall(r'(?:src|href)="page/([^"#]+)', told.text)
    assert named and set(named) <= set(assets())


def test_every_module_is_asked_for_at_once() -> None:
    scripts = {name: asset.content.decode() for name, asset in assets().items() if name.endswith(".js")}
    imported = {name for text in scripts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imported == set(
        re.findall(r'modulepreload" href="page/([^"]+)', assets()["index.html"].content.decode())
    )


def test_modules_never_read_markup_and_name_no_other_server() -> None:
    for name, asset in assets().items():
        text = asset.content.decode()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        ), name
        assert "://" not in text.replace("http://www.w3.org/", ""), name


# Searching with a photo


def test_a_photo_brings_hits_at_once_and_better_ones_with_its_caption(floor: Floor, page: Page) -> None:
    page.emulate("prefers-reduced-motion", "no-preference")  # cards glide here, in no other test
    page.one("#file").send_keys(str(floor.photo))
    page.wait(page.titles)
    assert page.all("#caption.waiting"), "hits do not wait for the caption"
    early = page.titles()
    page.settled()
    assert len(page.titles()) == PAGE
    form = {"caption": "true", "top": str(PAGE)}
    told = floor.running.client.post(
        "/v1/search", files={"picture": floor.photo.read_bytes()}, data=form
    ).json()
    assert told["hits"][0]["item"] == floor.item
    assert page.titles() == [hit["title"] for hit in told["hits"]]
    moved = [each for each in page.all(".climbed") if each.text]
    assert bool(moved) == (early != page.titles())
    claims = {each.text: each.get_attribute("class") for each in page.all("#claims .claim")}
    doubted = {text for text, kind in claims.items() if "doubted" in (kind or "")}
    assert any("green" in text and "not believed" in page.text(".claim.doubted") for text in doubted)
    assert any("slim" in text for text in set(claims) - doubted)
    assert "green" not in page.text("#caption-text")
    assert "Closest: " in page.text("#status") or page.wait(lambda: "Closest: " in page.text("#status"))


def test_found_regions_are_drawn_and_picked(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    x0, y0, x1, y1 = floor.box
    left, top, width, height = page.box()
    across = min(x1, (left + width) * 1000) - max(x0, left * 1000)
    down = min(y1, (top + height) * 700) - max(y0, top * 700)
    assert across > 0 and down > 0, "what is searched is where the item is"
    names = page.texts("#regions .chip")
    assert names[0] == "Region 1" and names[-3:] == ["Whole photo", "Each by itself", "Draw a box"]
    assert len(page.all("#outlines i")) == len(names) - 4  # one is the box
    page.searching(page.chip("Whole photo").click)
    assert page.pressed() == ["Whole photo"]
    assert not page.one("#box").is_displayed()
    middle = page.one("#outlines i")
    ActionChains(page.chrome).move_to_element(middle).click().perform()
    page.wait(lambda: page.pressed()[0].startswith("Region"))
    page.settled()


def test_a_box_is_drawn_by_mouse_and_moved_by_keys(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    frame = page.one("#frame")
    width, height = frame.size["width"], frame.size["height"]
    drag = ActionChains(page.chrome).move_to_element_with_offset(
        frame, int(-0.48 * width), int(-0.48 * height)
    )
    drag.click_and_hold().move_by_offset(20, 20).move_by_offset(
        int(0.25 * width) - 20, int(0.3 * height) - 20
    ).release()
    page.searching(drag.perform)
    assert page.pressed() == ["Your box"]
    assert np.allclose(page.box(), [0.02, 0.02, 0.25, 0.3], atol=0.02)
    was = page.box()
    page.run("document.getElementById('box').focus()")
    page.searching(lambda: page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN))
    assert np.allclose(np.subtract(page.box(), was), [0.04, 0.02, 0, 0], atol=0.01)
    resize = ActionChains(page.chrome).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP)
    page.searching(resize.key_up(Keys.SHIFT).perform)
    assert np.allclose(np.subtract(page.box(), was), [0.04, 0.02, 0.02, -0.02], atol=0.01)
    assert "% wide" in (page.one("#box").get_attribute("aria-label") or "")
    page.searching(lambda: page.press(Keys.ESCAPE))
    assert page.pressed() == ["Region 1"]


def test_several_photos_are_views_of_one_thing(floor: Floor, page: Page, axe: str, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    Image.open(floor.photo).rotate(5).save(turned)
    page.one("#file").send_keys(f"{floor.photo}\n{turned}")
    page.settled()
    shown = lambda: [each.get_attribute("aria-pressed") for each in page.all("#views .thumb")]  # noqa: E731
    assert shown() == ["true", "false"] and page.one("#together").is_displayed()
    assert not page.one("#regions").is_displayed() and not page.one("#box").is_displayed()
    files = [("picture", photo.read_bytes()) for photo in (floor.photo, turned)]
    told = floor.running.client.post("/v1/search", files=files, data={"top": str(PAGE)}).json()
    assert page.titles() == [hit["title"] for hit in told["hits"]]
    page.searching(lambda: page.one("#add").send_keys(str(floor.photo)))
    assert shown() == ["true", "false", "false"]
    page.resize(360, 740)
    assert page.run("return document.documentElement.scrollWidth") <= 360
    assert page.faults(axe) == []
    page.resize(1280, 900)
    page.all("#views .thumb")[1].send_keys(Keys.ENTER)
    assert shown() == ["false", "true", "false"] and page.focused() == "thumb"
    page.one(".why").click()
    page.wait(lambda: len(page.all("#why canvas")) == 2)
    page.press(Keys.ESCAPE)
    page.searching(lambda: page.all("#views .remove")[1].send_keys(Keys.ENTER))
    assert shown() == ["false", "true"] and page.focused() == "thumb"
    names = [each.get_attribute("aria-label") for each in page.all("#views button")]
    assert names == [f"{act} photo {place} of 2" for place in (1, 2) for act in ("Show", "Remove")]
    page.searching(page.all("#views .remove")[1].click)
    assert not page.one("#views").is_displayed() and page.focused() == "add"
    assert page.pressed()[0].startswith("Region"), "one photo has regions to choose from"


def test_each_region_is_searched_by_itself(floor: Floor, page: Page, axe: str) -> None:
    page.choose(floor.photo)
    chip = page.chip("Each by itself")
    chip.send_keys(Keys.ENTER)
    groups = page.wait(lambda: page.all("#groups section"))
    assert page.pressed() == ["Each by itself"] and not page.one("#box").is_displayed()
    form = {"regions": "each", "top": "6"}
    told = floor.running.client.post(
        "/v1/search", files={"picture": floor.photo.read_bytes()}, data=form
    ).json()
    assert [group.accessible_name for group in groups] == page.texts("#groups h3")
    assert page.texts("#groups h3")[0] == "Region 1" and len(groups) == len(told["groups"])
    for group, due in zip(groups, told["groups"], strict=True):
        titles = [each.get_attribute("textContent") for each in group.find_elements(By.CSS_SELECTOR, ".name")]
        assert titles == [hit["title"] for hit in due["hits"]]
    page.wait(lambda: "Hits for" in page.text("#status") and "Region 1: " in page.text("#status"))
    assert page.faults(axe) == []
    groups[-1].find_element(By.CSS_SELECTOR, ".why").click()
    page.wait(lambda: len(page.all("#why canvas")) == 2)
    page.press(Keys.ESCAPE)
    page.resize(360, 740)
    assert page.run("return document.documentElement.scrollWidth") <= 360
    page.resize(1280, 900)
    page.searching(lambda: groups[1].find_element(By.CSS_SELECTOR, ".row .button").send_keys(Keys.ENTER))
    assert not page.all("#groups section") and len(page.titles()) == PAGE
    assert page.pressed() == [page.run("return document.activeElement.textContent")]


def test_a_photo_is_dropped_or_pasted(floor: Floor, page: Page) -> None:
    bring = """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], "holiday.jpg", { type: "image/jpeg" }));
        const about = { bubbles: true, cancelable: true };
        const kinds = arguments[1] === "paste" ? [] : ["dragenter", "dragover", "drop"];
        const events = kinds.map((kind) => new DragEvent(kind, { dataTransfer: carried, ...about }));
        if (!kinds.length) events.push(new ClipboardEvent("paste", { clipboardData: carried, ...about }));
        events.forEach((event) => document.body.dispatchEvent(event));
    """
    photo = base64.b64encode(floor.photo.read_bytes()).decode()
    for how in "drop", "paste":
        page.open()
        page.searching(lambda how=how: page.run(bring, photo, how))  # type: ignore[misc]
        assert len(page.titles()) == PAGE
        assert not page.one("#dropping").is_displayed()


def test_a_photo_is_taken(page: Page) -> None:
    page.one("#camera").click()
    page.wait(page.one("#shoot").is_enabled)
    page.searching(page.one("#shoot").click)
    assert not page.one("#shutter").is_displayed()
    assert page.run("return document.getElementById('picture').naturalWidth") > 0
    assert page.run("return document.getElementById('video').srcObject") is None, "the camera is let go"


def test_what_is_no_picture_is_told_in_one_line(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture at all")
    page.one("#file").send_keys(str(tmp_path / "broken.jpg"))
    page.wait(lambda: page.all("#notice .wrong"))
    assert "Not a picture; JPEG, PNG" in page.one("#notice .wrong").text
    assert page.one("#notice .wrong").get_attribute("role") == "alert"
    assert page.one("#unseen").is_displayed()
    refused = [line for line in page.chrome.get_log("browser") if "422" not in line["message"]]
    assert refused == []


# Words and filters


def test_words_and_filters_narrow_it_down(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    page.searching(lambda: page.one("#words").send_keys("but in red", Keys.ENTER))
    assert not page.one("#caption").is_displayed(), "words and a caption do not go together"
    page.searching(lambda: page.one("#words").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE))
    _check(page, "category", "skirt")
    facts = page.texts("#list .facts-line")
    assert facts and all("skirt" in each for each in facts)
    low = page.one("[data-name=price] input")
    page.searching(lambda: low.send_keys("60"))
    prices = [float(text.replace(",", "")) for text in page.texts("#list .facts-line b")]
    assert all(price >= 60 for price in prices)
    page.searching(page.one("#clear-filters").click)
    assert len(page.titles()) == PAGE


def test_a_value_with_a_quote_is_still_a_value(page: Page) -> None:
    page.searching(lambda: page.one("#words").send_keys("a top", Keys.ENTER))
    assert page.text("#hits-title") == "What fits the words"
    _check(page, "color", QUOTED)
    assert len(page.titles()) == 1
    assert not page.all(".why"), "words have no patches"


def _check(page: Page, facet: str, value: str) -> None:
    place = f"[data-name={facet}]"
    page.run("document.querySelector(arguments[0]).open = true", place)
    chip = next(each for each in page.all(f"{place} .chip") if each.text == value)
    page.run("arguments[0].scrollIntoView({block: 'center'})", chip)
    page.searching(chip.click)


def test_more_hits_come_when_asked_for(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    more = page.one("#more")
    page.run("arguments[0].scrollIntoView({block: 'center'})", more)
    more.click()
    page.wait(lambda: len(page.titles()) == ITEMS)
    page.wait(lambda: not more.is_displayed())
    assert (
        len(set(page.run("return [...document.querySelectorAll('#list img')].map((image) => image.src)")))
        == ITEMS
    )


def test_what_a_merchant_writes_is_text(page: Page) -> None:
    shown = page.run("return [...document.querySelectorAll('#shelf .name')].map((name) => name.textContent)")
    page.searching(lambda: page.one("#words").send_keys("onerror", Keys.ENTER))
    assert MARKUP in [*shown, *page.titles()]
    assert "broken" not in page.chrome.title


# Looking closer


def test_a_hit_is_explained(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    why = page.one(".why")
    why.click()
    page.wait(lambda: len(page.all("#why canvas")) == 2)
    lights = page.run("""
        return [...document.querySelectorAll("#why canvas")].map((canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const light = [...data].filter((_, at) => at % 4 === 1);
            return [Math.min(...light.slice(0, 50000)), Math.max(...light.slice(0, 50000))];
        })""")
    assert all(low < high for low, high in lights), "patches are told apart"
    names = [each.get_attribute("aria-label") or "" for each in page.all("#why canvas")]
    assert names[0].startswith("Your photo. Matched best: ")
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.one("#why").is_displayed())
    assert page.run("return document.activeElement === arguments[0]", why)


def test_an_items_pictures_are_looked_at_and_searched_with(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    page.one("#list .tile").click()
    page.wait(lambda: len(page.all("#item .thumb")) == 3)
    shown = lambda: page.one("#item .large img").get_attribute("alt")  # noqa: E731
    assert str(shown()).endswith("picture 1 of 3")
    page.all("#item .thumb")[1].click()
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: str(shown()).endswith("picture 3 of 3"))
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: str(shown()).endswith("picture 1 of 3"))
    assert "Neckline" in page.text("#item dl")
    like = next(each for each in page.all("#item .button") if each.text == "More like this")
    page.searching(like.click)
    assert not page.one("#item").is_displayed()
    assert page.run("return document.getElementById('picture').naturalWidth") == 512


def test_everything_is_reached_by_keyboard(floor: Floor, page: Page) -> None:
    page.choose(floor.photo)
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.press(Keys.TAB)
    assert page.focused() == "skip"
    page.press(Keys.ENTER)
    page.press(Keys.TAB)
    assert page.focused() == "tile"
    page.press(Keys.ENTER)
    page.wait(lambda: page.all("#item-title:not(.skeleton)"))
    page.press(Keys.ESCAPE)
    page.wait(lambda: page.focused() == "tile")
    page.press(Keys.TAB, Keys.ENTER)
    page.wait(lambda: page.all("#why canvas"))
    page.press(Keys.TAB, Keys.ESCAPE)
    page.wait(lambda: page.focused() == "quiet why")
    page.chip("Whole photo").send_keys(Keys.ENTER)
    page.wait(lambda: page.pressed() == ["Whole photo"])
    page.settled()
    page.chip("Draw a box").send_keys(Keys.ENTER)
    page.wait(lambda: page.focused() == "box")
    page.settled()
    assert np.allclose(page.box(), [0.25, 0.25, 0.5, 0.5], atol=0.01)


# For everybody


def test_the_accessibility_checker_has_nothing_to_say(floor: Floor, page: Page, axe: str) -> None:
    assert page.faults(axe) == []
    page.choose(floor.photo)
    assert page.faults(axe) == []
    page.one(".why").click()
    page.wait(lambda: page.all("#why canvas"))
    assert page.faults(axe) == []
    page.press(Keys.ESCAPE)
    page.one("#list .tile").click()
    page.wait(lambda: page.all("#item .thumb"))
    assert page.faults(axe) == []
    page.open("/docs")
    page.wait(lambda: page.all(".endpoint"))
    assert page.faults(axe) == []


def test_a_narrow_phone_never_scrolls_sideways(floor: Floor, page: Page, axe: str) -> None:
    page.resize(360, 740)
    page.open()
    too_wide = lambda: page.run("return document.documentElement.scrollWidth") > 360  # noqa: E731
    assert not too_wide()
    page.choose(floor.photo)
    assert not too_wide()
    page.chip("Draw a box").click()
    page.searching(lambda: page.drag_by_finger((0.1, 0.1), (0.5, 0.6)))
    assert np.allclose(page.box(), [0.1, 0.1, 0.4, 0.5], atol=0.03)
    page.one("#open-sheet").click()
    page.wait(page.one("#filters").is_displayed)
    assert page.faults(axe) == [] and not too_wide()
    small = page.run("""
        const kinds = "button, a:not(.skip), summary, label.chip, .field, .range input";
        const all = document.querySelectorAll(kinds);
        return [...all].filter((each) => {
            const { width, height } = each.getBoundingClientRect();
            return each.checkVisibility() && (width < 44 || height < 44);
        }).map((each) => each.outerHTML)""")
    assert small == []
    page.one("#sheet-done").click()
    page.one("#list .tile").click()
    page.wait(lambda: page.all("#item .thumb"))
    assert not too_wide()
    page.open("/docs")
    page.wait(lambda: page.all(".endpoint"))
    assert not too_wide()


def test_colours_follow_the_device_or_the_button(page: Page) -> None:
    paper = lambda: page.run("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    page.colours("dark")
    dark = paper()
    page.colours("light")
    light = paper()
    assert dark != light
    page.one("#theme").click()
    assert page.one("#theme").get_attribute("aria-label") == "Colours: light"
    page.one("#theme").click()
    assert paper() == dark
    page.open("/docs")
    assert paper() == dark, "it is remembered"
    page.one("#theme").click()
    assert paper() == light


def test_the_api_is_described_without_any_network(floor: Floor, page: Page) -> None:
    page.open("/docs")
    page.wait(lambda: page.all(".endpoint"))
    paths = floor.running.client.get("/openapi.json").json()["paths"]
    told = [each.text for each in page.all(".endpoint h3")]
    wanted = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert sorted(each.replace("\n", " ") for each in told) == sorted(wanted)
    first = page.text(".command pre")
    assert first.startswith(f"curl -X POST {floor.running.url}/v1/search")
    assert "-F picture=@photo.jpg" in first


# Keys


def test_a_key_is_asked_for_and_its_limits_are_told(
    floor: Floor, chrome: webdriver.Chrome, serve: Callable[..., Running]
) -> None:
    private = serve(floor.photo.parent / "shop", "--private", "--per-minute", "120")
    page = Page(chrome, private.url)
    chrome.get(private.url)
    field = page.one("#key-input")
    page.wait(field.is_displayed)
    field.send_keys("lk_of_somebody_else", Keys.ENTER)
    page.wait(lambda: page.one("#key-wrong").text == "This key is not known here.")
    field.send_keys(private.keys["search"], Keys.ENTER)
    page.wait(lambda: page.all("#shelf .tile img.there"))
    page.choose(floor.photo)
    assert page.titles()
    page.wait(lambda: page.all("#list img.there"))
    assert page.run("return sessionStorage.length") == 1
    assert not any("lk_" in str(value) for value in page.run("return Object.values(localStorage)"))
    assert private.keys["search"] not in chrome.current_url + chrome.page_source
    while private.client.get("/v1/catalogue", headers=private.headers("search")).status_code != 429:
        pass
    page.one("#words").send_keys("too much", Keys.ENTER)
    page.wait(lambda: re.search(r"(try again|Going on) in \d+ s", page.text("#notice")))
    chrome.get_log("browser")  # the browser notes each refusal
