"""The page in a real browser: drop, toggle, compare, errors, keys, narrow screens."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import encoded, endpoint_of
from untrained import noise_images, untrained_run

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="Playwright is not installed (pip install playwright)"
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"
)

PHOTO = encoded(noise_images(1, 64, seed=2)[0])


@pytest.fixture(scope="module")
def address(noise_run: Path) -> Iterator[str]:
    with endpoint_of(noise_run) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    yield from opened(browser, address, 1280, 860)


def opened(browser: Any, address: str, width: int, height: int) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    yield page
    assert not [fault for fault in faults if "status of 4" not in fault]
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), "the page works without the net"
    context.close()


def drop(page: Any, content: bytes, name: str, kind: str) -> None:
    """Drop a file on the page, as a hand would."""
    page.evaluate(
        """([text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, {type}));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


def shown(page: Any, name: str = "after", other_than: str | None = None) -> str:
    """Return the picture that is shown, once it is another than `other_than`."""
    deadline = time.monotonic() + 30
    while (
        time.monotonic() < deadline
    ):  # Playwright's own waiting evaluates text, which the page's policy forbids
        source = page.evaluate(
            "(name) => { const i = document.getElementById(name); return i.hidden ? '' : i.src; }", name
        )
        if source and source != other_than:
            return str(source)
        time.sleep(0.05)
    raise AssertionError(f"no picture {name}: {page.text_content('#error')}")


def test_drop_an_image_toggle_and_see_another_picture(page: Any) -> None:
    drop(page, PHOTO, "photo.png", "image/png")
    first = shown(page)
    assert shown(page, "before") != first and shown(page, "plain") != first
    assert page.locator("#near img").count() == 3
    assert page.locator("#versions button").count() == 3
    page.get_by_role("checkbox", name="Young").click(force=True)
    second = shown(page, other_than=first)
    page.locator("input[type=radio]:not(:checked)").first.click(force=True)
    third = shown(page, other_than=second)
    assert len({first, second, third}) == 3
    page.get_by_role("button", name="Version 2").click()
    shown(page, other_than=third)
    assert page.get_attribute("#download", "href").startswith("data:image/png;base64,")


def test_a_text_file_is_refused_as_an_image(page: Any) -> None:
    drop(page, PHOTO, "photo.png", "image/png")
    before = shown(page)
    drop(page, b"a letter to a friend", "letter.txt", "text/plain")
    error = page.get_by_role("alert")
    error.wait_for(state="visible")
    assert "not an image in a supported format" in error.text_content()
    assert shown(page) == before, "what was there stays"
    drop(page, encoded(noise_images(1, 64, seed=8)[0]), "other.png", "image/png")
    shown(page, other_than=before)
    assert not error.is_visible()


def test_exclusive_attributes_exclude_each_other(page: Any) -> None:
    page.locator("#examples button").first.click()
    shown(page)
    for name in ("Black", "Blond"):
        page.get_by_role("radio", name=name).click(force=True)
    assert page.get_by_role("radio", name="Blond").is_checked()
    assert not page.get_by_role("radio", name="Black").is_checked()
    assert page.get_by_role("radio").count() == 4  # and one for none of them


def test_attributes_may_be_called_like_values(browser: Any, tmp_path: Path) -> None:
    untrained_run(
        tmp_path / "run", 'data.attributes=["0","1","2"]', "data.exclusive=[]", "data.domains=one-hot"
    )
    with endpoint_of(tmp_path / "run") as address:
        for page in opened(browser, address, 1280, 860):
            drop(page, PHOTO, "photo.png", "image/png")
            first = shown(page)
            page.locator("input[type=radio]:not(:checked)").first.click(force=True)
            shown(page, other_than=first)
            page.fill("#walk", "0.5")
            shown(page, "walk-high")


def test_everything_is_reached_by_keyboard_and_has_a_name(page: Any) -> None:
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    first = shown(page)
    page.get_by_role("checkbox", name="Male").focus()
    page.keyboard.press("Space")
    second = shown(page, other_than=first)
    page.get_by_role("slider", name="Position between the two").focus()
    page.keyboard.press("End")
    shown(page, "walk-high")
    page.get_by_role("button", name="New versions").focus()
    page.keyboard.press("Enter")
    shown(page, other_than=second)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, img:not([alt])")]
            .filter((one) => !one.closest("[hidden], dialog") && !(one.labels && one.labels.length)
                && !one.textContent.trim() && !one.querySelector?.("img[alt]") && !one.ariaLabel)
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_the_page_shows_masks_and_interpolations(page: Any) -> None:
    page.locator("#examples button").nth(1).click()
    shown(page)
    assert not page.locator("#mask").is_visible()
    page.get_by_role("button", name="Show what was painted").click()
    assert page.locator("#mask").is_visible()
    page.locator("#start").select_option("+Black_Hair")
    page.locator("#end").select_option("+Blond_Hair")
    page.fill("#walk", "0.5")
    shown(page, "walk-high")


def test_on_a_narrow_screen_nothing_sticks_out(browser: Any, address: str) -> None:
    for page in opened(browser, address, 360, 740):
        page.locator("#examples button").first.click()
        shown(page)
        page.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_prompts_for_the_key_if_there_is_one(browser: Any, noise_run: Path) -> None:
    with endpoint_of(noise_run, api_key="open sesame") as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("API key").fill("open sesame")
        page.get_by_role("button", name="Continue").click()
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        page.locator("#examples button").first.click()
        shown(page)
        page.close()
