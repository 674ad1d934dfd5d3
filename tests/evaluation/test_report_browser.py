"""The page of an evaluation in Chromium: its scripts work, nothing else runs, and nobody is asked for anything."""

import io
import socket
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
EXAMPLES = "[...document.querySelectorAll('.example:not([hidden])')]"


@pytest.fixture
def opened(browser, evaluated):
    """The page, newly opened, and the path of its file; in the end it must have said and asked nothing."""
    browser.said.clear()
    browser.asked.clear()
    browser.open(evaluated[1])
    yield browser, evaluated[1]
    assert browser.said == [] and browser.asked == []


def names(browser) -> list[str]:
    return browser.js(f"{EXAMPLES}.map(e => e.querySelector('figcaption b').textContent)")


def test_it_is_shown_without_complaint(browser, evaluated, tmp_path):
    for width, height in ((1280, 900), (390, 844)):
        browser.open(evaluated[1], width, height, touch=width < 600)
        assert browser.js("document.documentElement.scrollWidth") <= width
        picture = browser.call("Page.captureScreenshot")["data"]
        shown = np.array(Image.open(io.BytesIO(b64decode(picture))).convert("L"))
        assert (shown < 100).mean() > 0.005  # text
    assert browser.said == [] and browser.asked == []
    (tmp_path / "bad.html").write_text("<img src='http://127.0.0.1:9/a.png'><script>nothing()</script>")
    browser.open(tmp_path / "bad.html")
    assert any("nothing is not defined" in said for said in browser.said)  # it would have been seen
    assert browser.asked == ["http://127.0.0.1:9/a.png"]


def test_search(opened):
    browser, path = opened
    everything = names(browser)
    assert len(everything) == 9
    browser.js("document.getElementById('search').focus()")
    browser.call("Input.insertText", text="<B>3")
    assert names(browser) == ["<b>3.png"]
    assert browser.js("document.getElementById('count').textContent") == "1 of 9 shown"
    browser.set("search", "nowhere")
    assert names(browser) == []
    browser.set("search", "")
    assert names(browser) == everything


def test_order_by_any_metric(opened, evaluated):
    browser, path = opened
    values = np.load(path.with_suffix(".npz"))
    columns = browser.js("[...document.getElementById('by').options].map(o => [o.parentNode.label, o.text, o.value])")
    first, second = evaluated[0]["protocols"]
    assert {protocol for protocol, _, _ in columns} == {first, second}
    for t, key, text in ((1, f"{first}/l1", "l1 (lower is better)"), (0, f"{second}/psnr", "psnr (higher is better)")):
        protocol = key.split("/")[0]
        (column,) = [value for own, shown, value in columns if (own, shown) == (protocol, text)]
        of_image = dict(zip(values["names"].tolist(), values[f"{t}/{key}"].tolist(), strict=True))
        worst = sorted(of_image, key=of_image.__getitem__, reverse="lower" in text)
        browser.set("by", column)
        browser.set("of", str(t))
        assert browser.js("document.getElementById('order').value") == "worst" and names(browser) == worst
        line = browser.js(f"{EXAMPLES}[0].querySelector('.rank').textContent")
        assert line.startswith(key.replace("/", " ")) and line.endswith("rank 9 of 9 from the best")
        browser.set("order", "best")
        assert names(browser) == worst[::-1]
        browser.set("order", "median")
        median = np.median(list(of_image.values()))
        assert names(browser)[0] == min(of_image, key=lambda name: abs(of_image[name] - median))
        browser.set("order", "name")
        assert names(browser) == sorted(of_image)
        assert browser.js(f"{EXAMPLES}[0].querySelector('.rank').hidden")
    browser.set("left", "1")
    browser.set("right", "2")
    browser.set("of", "difference")  # both tokenizers are the same: none is better
    assert "+0" in browser.js(f"{EXAMPLES}[0].querySelector('.rank').textContent")


def split(browser) -> float:
    return float(browser.js(f"{EXAMPLES}[0].querySelector('.stage').style.getPropertyValue('--split').slice(0, -1)"))


def stage(browser) -> list[float]:
    browser.js(f"{EXAMPLES}[0].scrollIntoView()")
    return browser.js(
        f"(() => {{ const b = {EXAMPLES}[0].querySelector('.stage').getBoundingClientRect(); "
        "return [b.left, b.top, b.width, b.height]; })()"
    )


def test_the_slider_follows_the_mouse_and_the_keys(opened):
    browser, _ = opened
    left, top, width, height = stage(browser)
    y = top + height / 2
    assert split(browser) == 50
    browser.mouse("mousePressed", left + 0.25 * width, y, button="left", buttons=1, clickCount=1)
    assert split(browser) == pytest.approx(25, abs=1)
    browser.mouse("mouseMoved", left + 0.8 * width, y, button="left", buttons=1)
    assert split(browser) == pytest.approx(80, abs=1)
    browser.mouse("mouseReleased", left + 0.8 * width, y, button="left")
    browser.mouse("mouseMoved", left + 0.1 * width, y)
    assert split(browser) == pytest.approx(80, abs=1)  # let go
    before = split(browser)
    browser.press("ArrowRight")
    assert split(browser) == pytest.approx(before + 1, abs=1) and split(browser) > before
    browser.press("Home")
    assert split(browser) == 0
    text = browser.js("document.activeElement.getAttribute('aria-label')")
    assert text.startswith("Divider between image and ")
    shown = browser.js(f"{EXAMPLES}[0].querySelectorAll('.panel')[1].checkVisibility()")
    clip = browser.js(f"getComputedStyle({EXAMPLES}[0].querySelector('.panel.right')).clipPath")
    assert shown and clip == "inset(0px 0px 0px 0%)"  # the reconstruction alone


def test_the_slider_follows_a_finger(browser, evaluated):
    browser.said.clear()
    browser.open(evaluated[1], 390, 844, touch=True)
    left, top, width, height = stage(browser)
    touch = {"y": top + height / 2}
    browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[touch | {"x": left + 0.5 * width}])
    for share in (0.55, 0.6, 0.7):
        browser.call("Input.dispatchTouchEvent", type="touchMove", touchPoints=[touch | {"x": left + share * width}])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert split(browser) == pytest.approx(70, abs=2) and browser.said == []


def test_which_two_are_compared(opened):
    browser, _ = opened
    shown = f"{EXAMPLES}[0].querySelectorAll('.panel')"
    visible = f"[...{shown}].map(e => e.checkVisibility())"
    assert browser.js(visible) == [True, True, False]
    browser.set("left", "1")
    browser.set("right", "2")
    assert browser.js(visible) == [False, True, True]
    browser.set("view", "panels")
    assert browser.js(visible) == [True, True, True]
    browser.set("over", "errors")
    assert browser.js(f"[...{EXAMPLES}[0].querySelectorAll('.error')].map(e => e.checkVisibility())") == [True, True]


def test_the_map_of_codes_is_that_of_the_codes(opened):
    browser, path = opened
    browser.set("over", "codes")
    pixels = browser.js(
        f"(() => {{ const own = {EXAMPLES}[0].querySelector('canvas'); const w = own.width, s = w / 4;"
        "const { data } = own.getContext('2d').getImageData(0, 0, w, w);"
        "const at = (i) => 4 * (Math.floor((Math.floor(i / 4) + 0.5) * s) * w + Math.floor((i % 4 + 0.5) * s));"
        "return [...Array(16).keys()].map(i => data.slice(at(i), at(i) + 4).join()); })()"
    )
    codes = browser.js(f"{EXAMPLES}[0].querySelector('canvas').map.codes")
    assert len(codes) == 16 and browser.js("document.querySelectorAll('canvas').length") == 9
    for i in range(16):
        for j in range(i):
            assert (pixels[i] == pixels[j]) == (codes[i] == codes[j])
    left, top, width, height = stage(browser)
    browser.mouse("mouseMoved", left + 0.9 * width, top + 0.4 * height)
    text = browser.js(f"{EXAMPLES}[0].querySelector('.code').textContent")
    assert text.endswith(f"code {codes[7]} at row 2, column 4")
    browser.set("over", "none")
    assert browser.js("document.querySelectorAll('canvas').length") == 0


def test_maps_of_several_codebooks_scales_and_sequences(opened):
    browser, _ = opened
    browser.js("globalThis.packed = (values) => btoa(String.fromCharCode(...values))")
    scales = "{grids: [[1, 1], [2, 2]], codebooks: 2, granularities: 1, bytes: 1, codes: packed([...Array(10).keys()])}"
    assert browser.js(f"tokenMap({scales}, 0, 0).codes") == [0]
    assert browser.js(f"tokenMap({scales}, 1, 1).codes") == [6, 7, 8, 9]
    assert not browser.js(f"tokenMap({scales}, 1, 1).sequence")
    line = "{grids: [[1, 40]], codebooks: 1, granularities: 1, bytes: 2, codes: packed([...Array(80).keys()])}"
    assert browser.js(f"(({{w, h, sequence}}) => [w, h, sequence])(tokenMap({line}, 0, 0))") == [32, 2, True]
    assert browser.js(f"tokenMap({line}, 0, 0).codes[39]") == 78 + 256 * 79
    assert browser.js(f"codeAt(tokenMap({line}, 0, 0), 0.99, 0.2)") == f"code {62 + 256 * 63} at position 32"


def test_cells_of_a_dynamic_head(opened):
    """One cell of 4 x 4, one of 2 x 2, and twelve of one position: a grid of 4 x 8 by hand."""
    browser, _ = opened
    keep = np.zeros((4, 8), int)
    keep[0, 0] = 1
    keep[:, 4:] = 1
    keep[0:2, 4:6] = [[1, 0], [0, 0]]
    cells = browser.js(f"cellsOf({keep.flatten().tolist()}, 4, 8, 4)")
    sides = np.array([cell["side"] for cell in cells]).reshape(4, 8)
    firsts = np.array([cell["first"] for cell in cells]).reshape(4, 8)
    assert (sides[:, :4] == 4).all() and (firsts[:, :4] == 0).all()
    assert (sides[:2, 4:6] == 2).all() and (firsts[:2, 4:6] == 4).all()
    assert (sides == 1).sum() == 12 and firsts[3, 7] == 31


def test_only_its_own_scripts_and_styles_run(browser, evaluated, tmp_path):
    text = evaluated[1].read_text()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    host = f"http://127.0.0.1:{server.getsockname()[1]}"
    foreign = (
        "<script>document.title = 'script'</script><img src='data:,' onerror=\"document.title = 'handler'\">"
        "<p id='styled' style='position: fixed'>p</p><style>p { position: fixed }</style>"
        "<a id='link' href=\"javascript:document.title = 'link'\">a</a><iframe srcdoc='<p>frame</p>'></iframe>"
        f"<img src='{host}/a.png'><link rel='stylesheet' href='{host}/a.css'><script src='{host}/a.js'></script>"
        "<script src='data:text/javascript,document.title=1'></script>"
    )
    page = tmp_path / "foreign.html"
    page.write_text(text.replace("<body>", f"<body>{foreign}"))
    browser.open(evaluated[1])
    title = browser.js("document.title")
    browser.said.clear()
    browser.open(page)
    browser.js("document.getElementById('link').click()")
    assert browser.js("document.title") == title
    assert browser.js("getComputedStyle(document.getElementById('styled')).position") == "static"
    assert len([said for said in browser.said if "Content Security Policy" in said]) >= 6
    with pytest.raises(TimeoutError):
        server.accept()  # nobody has come
    server.close()
    assert not browser.js("document.querySelector('.controls').hidden")  # its own scripts do

    changed = tmp_path / "changed.html"
    changed.write_text(text.replace('"use strict";', '"use strict"; document.title = "changed";'))
    browser.open(changed)
    assert browser.js("document.title") == title and browser.js("document.querySelector('.controls').hidden")
    browser.said.clear()
    browser.asked.clear()


def test_without_scripts_everything_is_shown(browser, evaluated):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(evaluated[1])
        pictures = browser.js("[...document.querySelectorAll('.example img')].filter(e => e.checkVisibility()).length")
        assert pictures == 9 * 5
        assert browser.js("document.querySelector('.values').checkVisibility()")
        assert not browser.js("document.querySelector('.controls').checkVisibility()")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
