"""The page of a server in a real browser: typed, dropped, by keyboard alone, on a phone, by axe."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from contrastive import build_index, calibrate
from tests.served import serving
from tests.test_serve import TOKEN, Served

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = Served(tmp_path_factory.mktemp("served"))
    build_index(made.model, made.rows[:5], made.folder / "few", model_folder=made.folder / "saved")
    return made


@pytest.fixture(scope="module")
def server(made):
    with serving(made.folder / "found", made.folder / "few") as running:
        yield running


@pytest.fixture
def page(browser, server, request):
    """Return a page whose errors, and requests to other places, fail the test."""
    size = getattr(request, "param", (DESKTOP, "light"))
    context = browser.new_context(viewport=size[0], color_scheme=size[1])
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: line.type == "error" and wrong.append(line.text))
    page.on(
        "request",
        lambda one: one.url.startswith((server.url, "data:", "blob:")) or wrong.append(one.url),
    )
    page.goto(server.url)
    expect(page.locator("#search-status")).to_contain_text("20 image rows")
    yield page
    context.close()
    assert not [line for line in wrong if "status of 400" not in line]  # a mistake of the user


def test_words_typed_and_an_image_dropped(page, made):
    page.get_by_label("Words").fill("a red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(2)  # two indexes, side by side
    expect(page.locator(".answer").first.locator(".hit")).to_have_count(12)
    page.get_by_label("Model").select_option("found")
    content = list(Path(made.rows[4]["image"]).read_bytes())
    page.evaluate(
        """content => {
            const data = new DataTransfer();
            const file = new File([new Uint8Array(content)], "4.png", {type: "image/png"});
            data.items.add(file);
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        content,
    )
    expect(page.get_by_alt_text("The image that is searched for")).to_be_visible()
    expect(page.locator(".answer")).to_have_count(1)
    page.get_by_label("Find").select_option("image")
    page.locator("#search .go").click()
    expect(page.locator(".hit p").first).to_have_text("4.png")
    image = page.locator(".hit img").first
    assert image.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 0
    page.get_by_role("button", name="Remove the image").click()
    expect(page.get_by_alt_text("The image that is searched for")).to_be_hidden()


def test_by_the_keyboard_alone(page, made):
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Search")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Classify")).to_be_focused()
    expect(page.locator("#search")).to_be_hidden()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Image", exact=True)).to_be_focused()
    page.get_by_label("Image", exact=True).set_input_files(made.rows[1]["image"])
    page.keyboard.press("Tab")
    page.keyboard.type("circle, square")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".answer").first.locator(".bars li")).to_have_count(2)
    shown = page.locator(".answer").first.locator(".value").all_inner_texts()
    shares = [float(text.removesuffix(" %")) for text in shown]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)


def test_mistakes_are_told(page, tmp_path):
    page.locator("#search .go").click()
    expect(page.locator("#search-status")).to_have_text("Type some words, or choose an image.")
    (tmp_path / "broken.png").write_bytes(b"nonsense")
    page.locator("#search-image").set_input_files(tmp_path / "broken.png")
    page.locator("#search .go").click()
    expect(page.locator("#search-status")).to_contain_text("is no image that is known")


SIZES = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]


@pytest.mark.parametrize("page", SIZES, indirect=True, ids=str)
def test_everybody_can_use_it(page, made):
    """No violation that axe knows; nothing is wider than the screen."""
    page.get_by_label("Words").fill("red")
    page.locator("#search .go").click()
    expect(page.locator(".hit").first).to_be_visible()
    for tab in ("Search", "Classify"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Classify":
            page.get_by_label("Image", exact=True).set_input_files(made.rows[1]["image"])
            page.get_by_label("Classes").fill("circle, square")
            page.locator("#classify .go").click()
            expect(page.locator(".bars li").first).to_be_visible()
        found = Axe().run(page)
        assert not found.violations_count, found.generate_report()
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0


def test_a_token_is_asked_for_and_no_match_is_told(browser, made, tmp_path):
    texts = [f"text {number}" for number in range(400)]
    images = [row["image"] for row in made.rows]
    similarities = made.model.embed("image", images) @ made.model.embed("text", texts).T
    best = similarities.argsort(dim=1, descending=True)[:, :2]  # as if these were their captions
    rows = [
        {"image": images[i], "text": texts[j], "id": i} for i in range(20) for j in best[i].tolist()
    ]
    calibrate(made.model, rows)
    made.model.save(tmp_path / "calibrated")
    build_index(made.model, made.rows, tmp_path / "index", model_folder=tmp_path / "calibrated")
    with serving(tmp_path / "index", token=TOKEN) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_role("textbox", name="Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#search-status")).to_contain_text("20 image rows")
        page.get_by_label("Words").fill("red")
        page.get_by_label("Right at least").select_option("0.95")
        page.keyboard.press("Tab")
        page.locator("#search .go").click()
        expect(page.locator(".no-match")).to_contain_text("No match. The nearest: ")
        expect(page.locator(".no-match")).to_contain_text("% right · cosine")
        page.get_by_label("Right at least").select_option("")
        page.locator("#search .go").click()
        image = page.locator(".hit img").first
        expect(image).to_be_visible()
        expect(image).to_have_attribute("src", re.compile("^blob:"))
        page.close()
