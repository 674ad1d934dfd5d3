"""The page of an evaluation: what is on it, that it escapes, and that a browser asks nobody for anything."""

import io
import re
import shutil
import subprocess
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from PIL import Image

from vistok.evaluation import evaluate
from vistok.evaluation.report import charts, code_maps, example_figures, labels

CONFIGS = Path(__file__).parent.parent.parent / "configs"
EVIL = "<script>alert(1)<&'x"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, trained):
    """The JSON's content and the path of the page: two tokenizers, one of an evil name, under two protocols."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(trained / "tokenizer", folder / EVIL)
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(9):
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / "photos" / f"<b>{i}.png")
    tokenizers = f'["{trained}","{folder / EVIL}"]'
    words = [
        f"tokenizer={tokenizers}",
        f"data.root={folder}/photos",
        f"run.out={folder}/report.json",
        "data.image_size=32",
    ]
    words += ["data.num_workers=0", "metrics.lpips=null", "feature_network=none", "protocol=[canonical,seed]"]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose("eval", overrides=words)
    return evaluate.evaluate(config), folder / "report.html"


class Page(HTMLParser):
    """Tags, what they refer to, and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            self.ids += [value] * (name == "id")
            assert not name.startswith("on"), (tag, name)

    def handle_data(self, data):
        self.text += data


def test_what_is_on_it(evaluated):
    content, path = evaluated
    page = Page(path.read_text())
    for protocol in content["protocols"].values():
        assert protocol["hash"] in page.text
    for fact in (content["data"]["sha256_of_names"], "float32", f"vistok {content['versions']['vistok']}"):
        assert fact in page.text
    for score in content["scores"]:
        assert f"{score['metrics']['psnr']:.2f}" in page.text
    for section in ("Rate and distortion", "Reconstructions", "Worst images", "Best images", "Codes", "Provenance"):
        assert section in page.text
    # 6 drawn, of image, two reconstructions and their errors; for each tokenizer 6 best and 6 worst of three pictures
    assert page.tags.count("image") == 6 * 5 + 2 * 12 * 3
    assert len(page.ids) == len(set(page.ids)) == page.tags.count("use")
    assert page.text.count("of 16 codewords never chosen by 144 tokens") == 2
    assert "viewport" in path.read_text() and "prefers-color-scheme: dark" in path.read_text()


def test_what_users_name_is_escaped(evaluated):
    _, path = evaluated
    page = Page(path.read_text())
    assert "script" not in page.tags and "<b>0.png" not in path.read_text()
    assert EVIL in page.text and "<b>0.png" in page.text  # as they are, for the reader


def test_it_refers_to_nothing_outside(evaluated):
    _, path = evaluated
    text = path.read_text()
    page = Page(text)
    own = {f"#{name}" for name in page.ids}
    assert all(reference.startswith("data:") or reference in own for reference in page.references)
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in text and not {"iframe", "object", "script"} & set(page.tags)


def in_browser(path: Path, folder: Path, *flags: str) -> tuple[list[str], set[str]]:
    """Log of a page, and the hosts it connects to, without those of Chromium itself."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium is installed")
    folder.mkdir()
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder}/profile", f"--log-net-log={folder}/net.json"]
    command += [f"--screenshot={folder}/page.png", *flags, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert (folder / "page.png").is_file(), done.stderr
    hosts = set(re.findall(r'"url":"(?:https?|wss?|ftp)://([^/":]+)', (folder / "net.json").read_text()))
    hosts = {host for host in hosts if not host.endswith(".google.com") and host != "update.googleapis.com"}
    return re.findall(r":CONSOLE.*", done.stderr), hosts


@pytest.mark.slow
def test_a_browser_shows_it_without_complaint(evaluated, tmp_path):
    _, path = evaluated
    for name, flags in (("laptop", ["--window-size=1280,900"]), ("phone", ["--window-size=390,844"])):
        said, asked = in_browser(path, tmp_path / name, *flags)
        assert said == [] and asked == set()
        shown = np.array(Image.open(tmp_path / name / "page.png").convert("L"))
        assert (shown < 100).mean() > 0.005  # text
    (tmp_path / "bad.html").write_text("<img src='http://127.0.0.1:9/a.png'><script>nothing()</script>")
    said, asked = in_browser(tmp_path / "bad.html", tmp_path / "bad")
    assert "nothing is not defined" in said[0] and asked == {"127.0.0.1"}  # it would have been seen


def test_the_enlarged_square_is_where_the_error_is():
    error = torch.zeros(64, 96)
    error[40:52, 70:84] = 1
    top, left, side = example_figures.worst_window(error)
    assert side == 16
    assert error[top : top + side, left : left + side].sum() == error.sum()
    assert example_figures.worst_window(torch.ones(8, 8)) == (0, 0, 8)


def decoded(page: str) -> tuple[np.ndarray, str]:
    """The pixels of the first picture, and the kind of its file."""
    kind, data = re.search(r"data:image/(\w+);base64,([^\"]+)", page).groups()
    return np.array(Image.open(io.BytesIO(b64decode(data))).convert("RGB")), kind


def test_dead_codes_have_their_own_colour():
    shown = code_maps.dead_map("a<b", np.array([0, 1, 100, 0, 10]))
    pixels, _ = decoded(shown)
    assert pixels.shape == (2, 3, 3)
    dead = (pixels == code_maps.DEAD).all(-1)
    assert dead.tolist() == [[True, False, False], [True, False, True]]  # the last is filler
    assert pixels[0, 1].sum() > pixels[1, 1].sum() > pixels[0, 2].sum()  # darker, the more often
    assert "2 of 5 codewords never chosen by 111 tokens; uniform choices would leave 0" in unescape(shown)
    assert "the last 1 squares are no codewords" in shown and "<b>a&lt;b</b>" in shown


def test_pictures_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    shown, kind = decoded(f'"{charts.picture(pixels)}"')
    assert kind == "png" and np.array_equal(shown, pixels)
    smooth = np.tile(np.arange(128, dtype=np.uint8)[:, None, None], (1, 128, 3))
    shown, kind = decoded(f'"{charts.picture(smooth)}"')
    assert kind == "jpeg" and np.abs(shown.astype(int) - smooth).max() <= 2


def test_axes_by_hand():
    axis = charts.Axis(0, 10)
    assert [axis.at(value) for value in (0, 2.5, 10)] == [0, 0.25, 1] and axis.ticks() == [0, 2, 4, 6, 8, 10]
    assert charts.Axis(0.1, 0.42).ticks() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert charts.Axis(0, 2.1, integer=True).ticks() == [0, 1, 2]
    log = charts.Axis.over([1, 1000], log=True)
    assert log.ticks() == [1, 10, 100, 1000] and log.at(10) == pytest.approx(1 / np.log10(1100))
    for same in (0.0, 5.0, -3.0):
        axis = charts.Axis.over([same, same])
        assert axis.low < same < axis.high and 2 <= len(axis.ticks()) <= 6


def points(svg: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]+)"', svg).group(1).split()]


def test_ranks_are_in_order_and_dead_codes_off_the_chart():
    drawn = points(charts.rank_chart([("a", np.array([0, 10, 1000, 0, 100]))]))
    assert len(drawn) == 3
    heights = [y for _, y in drawn]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)  # a tenth each time
    assert drawn[0][0] == charts.LEFT


def test_bars_have_the_heights_of_their_counts():
    svg = charts.histogram([("a<b", np.array([0.0] * 3 + [1.0] * 6))], "x")
    path = re.search(r' d="(M[^"]+Z)"', svg).group(1)
    levels = [float(y) for y in re.findall(r"V([\d.]+)", path)]
    base = levels[-1]
    assert len(levels) == 6 + 1  # bins: twice the root of nine
    assert base - levels[5] == pytest.approx(2 * (base - levels[0]), abs=0.2)
    assert levels[1:5] == [base] * 4 and "<title>a&lt;b</title>" in svg
    assert "nan" not in charts.histogram([("a", np.full(4, 2.5))], "x")


def test_names_that_end_alike_are_told_apart():
    assert labels.distinct(["runs/a/tokenizer", "runs/b"]) == ["a", "b"]
    assert labels.distinct(["x/a", "y/a"]) == ["1: a", "2: a"]
