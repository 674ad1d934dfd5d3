"""The documentation's site in Chromium: pages fit their window, scripts say nothing, links and pictures are there."""

import json
import re
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote

import pytest

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
FAULTS = (Path(__file__).parent / "standins" / "page_faults.js").read_text()
ARTICLE = re.compile(r"(<article\b[^>]*>)(.*)(</article>)", re.DOTALL)
KINDS = ("index.html", "evaluation.html", "heads/multiscale.html", "api/quantizers.html")
LONG = [  # pages with lines of code that do not fit: remove a page from here once it is rewritten
    "backbones.html",
    "backbones/cnn.html",
    "backbones/magvit.html",
    "backbones/vit.html",
    "heads/bsq.html",
    "heads/dqvae.html",
    "heads/fq.html",
    "heads/fsq.html",
    "heads/ibq.html",
    "heads/multiscale.html",
    "heads/residual.html",
    "heads/vq.html",
    "heads/vqbridge.html",
]


@pytest.fixture(scope="module")
def address(site):
    """Of a server of the site: pages that are files may not search."""

    class Server(SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/everything.html":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(everything(site).encode())

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pages_of(site):
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if path.name != "404.html")


def everything(site):
    """The texts of all pages in one, which a browser reads in a tenth of the time: scripts are the same on each."""
    parts = []
    for page in pages_of(site):
        text = ARTICLE.search((site / page).read_text())[2]
        folder = dirname(page)
        text = re.sub(r' src="(?!\w+:)([^"]+)', lambda m, at=folder: f' src="{normpath(join(at, m[1]))}', text)
        parts.append(f'<section class="page" title="{page}">{text}</section>')
    return ARTICLE.sub(lambda m: m[1] + "".join(parts) + m[3], (site / "quickstart.html").read_text())


def faults(browser, address, long=()):
    """Faults of a page at every size, and complaints of the browser."""
    browser.said.clear()
    browser.asked.clear()
    browser.resize(*SIZES["desktop"])
    browser.go(address)
    found = []
    for name, (width, height) in SIZES.items():
        browser.resize(width, height, touch=name == "phone")
        scrolled = json.dumps(list(long)) if name == "desktop" else "null"
        found += [f"{name}: {fault}" for fault in browser.js(f"{FAULTS}; faultsOf({width}, {scrolled})")]
    found += browser.said + [asked for asked in browser.asked if not asked.startswith(address[:20])]
    browser.said.clear()
    browser.asked.clear()
    return found


def test_the_text_of_every_page_fits(browser, address):
    found = faults(browser, f"{address}/everything.html", LONG)
    assert browser.js("document.querySelectorAll('.page').length") > 30
    assert browser.js("document.querySelectorAll('.page pre .md-code__nav').length") > 100
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", KINDS)
def test_pages_fit_and_say_nothing(browser, address, page):
    """One of each kind, as a whole."""
    assert faults(browser, f"{address}/{page}", ["page"]) == []


def test_faults_are_found(browser, tmp_path):
    """By the checks above, on a page with one fault of each kind."""
    code = "<pre style='position: relative'>{}<code style='display: block; overflow: {}; width: 300px'>{}</code></pre>"
    button = "<nav class='md-code__nav' style='position: absolute; left: 280px; top: 0'>copy</nav>"
    (tmp_path / "bad.html").write_text(
        f"<meta name='viewport' content='width=device-width'>{code.format('', 'hidden', 'a' * 200)}"
        f"{code.format('', 'auto', 'b' * 200)}{code.format(button, 'auto', 'c')}<img src='data:,'>"
        "<table style='width: 50px; table-layout: fixed'><th style='overflow-wrap: anywhere'>openmagvit2</th></table>"
        "<p style='width: 1500px'>wide</p><script>nothing()</script>"
    )
    found = "\n".join(faults(browser, (tmp_path / "bad.html").as_uri()))
    for fault in (
        f'desktop: page: code "{"a" * 40}" is cut off at the right',
        f'desktop: page: code "{"b" * 40}" has lines that are too long',
        'desktop: page: pre "copyc" is under its button',
        'desktop: page: th "openmagvit2" is a broken word',
        'desktop: page: img "data:," has not loaded',
        'desktop: page: p "wide" ends at 15',
        'phone: page: p "wide" ends at 15',
        "desktop: the page is 15",
        "phone: the page is 15",
        "nothing is not defined",
    ):
        assert fault in found, found
    assert f'phone: page: code "{"b" * 40}"' not in found  # it scrolls


def test_links_and_pictures_of_the_site_are_there(site):
    """Also those that the theme and HTML in pages make, with their anchors."""
    anchors, links = {}, set()
    for page in pages_of(site):
        text = (site / page).read_text()
        anchors[page] = set(map(unescape, re.findall(r"\sid=[\"']?([^\s\"'>]+)", text)))
        links |= {(page, unescape(found)) for found in re.findall(r"\s(?:href|src)=[\"']?([^\s\"'>]*)", text)}
    inside = {(page, unquote(link)) for page, link in links if not re.match(r"\w+:", link)}
    assert len(inside) > 3000
    for page, link in inside:
        file, _, anchor = link.partition("#")
        target = normpath(join(dirname(page), file)) if file else page
        assert (site / target).is_file(), (page, link)
        assert not anchor or anchor in anchors[target], (page, link)
