"""The documentation's site in Chromium: pages fit their window, scripts say nothing, links and pictures are there."""

import re
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
FAULTS = (Path(__file__).parent / "standins" / "page_faults.js").read_text()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Of a server of the site: pages of files may not search."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def faults(browser):
    """Faults of the opened page at every size."""
    found = []
    for name, (width, height) in SIZES.items():
        browser.resize(width, height, touch=name == "phone")
        found += [f"{name}: {fault}" for fault in browser.js(f"{FAULTS}; faultsOf({str(name == 'desktop').lower()})")]
    return found


def test_every_page_fits_and_says_nothing(browser, site, address):
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "404.html")
    found = {}
    for page in pages:
        browser.said.clear()
        browser.asked.clear()
        browser.resize(*SIZES["desktop"])
        browser.go(f"{address}/{page}")
        complaints = faults(browser) + browser.said + [a for a in browser.asked if not a.startswith(address)]
        if complaints:
            found[page] = complaints
    browser.said.clear()
    browser.asked.clear()
    assert len(pages) > 30
    assert not found, "\n".join(f"{page}: {fault}" for page, texts in found.items() for fault in texts)


def test_faults_are_found(browser, tmp_path):
    """The check of the other test, on a page with one fault of each kind."""
    code = "<pre style='position: relative'>{}<code style='display: block; overflow: {}; width: 300px'>{}</code></pre>"
    button = "<nav class='md-code__nav' style='position: absolute; left: 280px; top: 0'>copy</nav>"
    (tmp_path / "bad.html").write_text(
        f"<meta name='viewport' content='width=device-width'>{code.format('', 'hidden', 'a' * 200)}"
        f"{code.format('', 'auto', 'b' * 200)}{code.format(button, 'auto', 'c')}<img src='none.png'>"
        "<table style='width: 50px; table-layout: fixed'><th style='overflow-wrap: anywhere'>openmagvit2</th></table>"
        "<p style='width: 1500px'>wide</p><script>nothing()</script>"
    )
    browser.said.clear()
    browser.open(tmp_path / "bad.html")
    found = "\n".join(faults(browser))
    for fault in (
        f'desktop: code "{"a" * 40}": is cut off at the right',
        f'desktop: code "{"b" * 40}": has lines that are too long',
        'desktop: pre "copyc": is under its copy button',
        'desktop: th "openmagvit2": "openmagvit2" is broken',
        'desktop: p "wide": ends at 15',
        'phone: p "wide": ends at 15',
        "desktop: the page is 15",
        'none.png": has not loaded',
    ):
        assert fault in found, found
    assert f'phone: code "{"b" * 40}"' not in found  # it scrolls
    assert any("nothing is not defined" in said for said in browser.said)
    browser.said.clear()


def test_links_and_pictures_of_the_site_are_there(site):
    """Also those that the theme and HTML in pages make, with their anchors."""
    anchors, links = {}, []
    for path in site.rglob("*.html"):
        if path.name != "404.html":  # whose addresses are those of a server
            text = path.read_text()
            anchors[path.resolve()] = set(map(unescape, re.findall(r"\sid=[\"']?([^\s\"'>]+)", text)))
            links += [(path, unescape(found)) for found in re.findall(r"\s(?:href|src)=[\"']?([^\s\"'>]*)", text)]
    assert len(links) > 5000
    for page, link in set(links):
        if not re.match(r"\w+:", link):
            file, _, anchor = unquote(link).partition("#")
            target = (page.parent / file).resolve() if file else page.resolve()
            assert target.is_file(), (page.name, link)
            assert not anchor or target.suffix != ".html" or anchor in anchors[target], (page.name, link)
