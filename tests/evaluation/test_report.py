"""The page of an evaluation: what is on it, that it escapes, and how many bytes it has; its charts and pictures."""

import base64
import hashlib
import io
import json
import re
from base64 import b64decode
from fnmatch import fnmatch
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vistok.evaluation.examples import Example, Examples
from vistok.evaluation.report import (
    charts,
    code_maps,
    example_figures,
    inline_files,
    labels,
    thumbnails,
    token_data,
)
from vistok.evaluation.report.page import rate_distortion
from vistok.metrics.distances import DISTANCES
from vistok.metrics.units import _with_unit, better
from vistok.quantizers import Layout

ROOT = Path(__file__).parent.parent.parent
EVIL = "<script>alert(1)<&'x"


class Page(HTMLParser):
    """Tags, what they refer to, and the text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.blocks: list[tuple[str, dict, str]] = []  # style sheets, scripts and data, with their attributes
        self.labelled: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            self.ids += [value] * (name == "id")
            assert not name.startswith("on") and name != "style", (tag, name)
        if tag in ("style", "script"):
            self.blocks.append((tag, dict(attributes), ""))
        if tag == "img":
            assert dict(attributes)["alt"]

    def handle_data(self, data):
        if self.cdata_elem:
            tag, attributes, text = self.blocks[-1]
            self.blocks[-1] = (tag, attributes, text + data)
        else:
            self.text += data


def data_of(page: Page) -> dict:
    """The values and codes that the page's scripts read."""
    (text,) = [text for _, attributes, text in page.blocks if attributes.get("id") == "example-data"]
    return json.loads(text)


def numbers(text: str, kind: str, *shape: int) -> np.ndarray:
    return np.frombuffer(b64decode(text), kind).reshape(shape)


def test_what_is_on_it(evaluated):
    content, path = evaluated
    page = Page(path.read_text())
    for protocol in content["protocols"].values():
        assert protocol["hash"] in page.text
    for fact in (content["data"]["sha256_of_images"], "float32", f"vistok {content['versions']['vistok']}"):
        assert fact in page.text
    for score in content["scores"]:
        assert f"{score['metrics']['psnr']:.2f}" in page.text
    for section in ("Rate and distortion", "Images and reconstructions", "Codes", "Provenance"):
        assert section in page.text
    # all 9 images with two reconstructions and their errors; two maps of codebooks
    assert page.tags.count("img") == 9 * 5 + 2 and page.tags.count("figure") >= 9
    assert len(page.ids) == len(set(page.ids))
    assert page.text.count("of 16 codewords never chosen by 144 tokens") == 2
    assert "viewport" in path.read_text() and "prefers-color-scheme: dark" in path.read_text()


def test_what_users_name_is_escaped(evaluated):
    _, path = evaluated
    text = path.read_text()
    page = Page(text)
    assert text.count("<script") == 1 + len(inline_files.SCRIPTS) == page.tags.count("script")
    assert "<b>0.png" not in text and "alert(1)<" not in text
    assert EVIL in page.text and "<b>0.png" in page.text  # as they are, for the reader
    assert EVIL in data_of(page)["labels"] and "<b>0.png" in data_of(page)["names"]


def test_no_markup_begins_in_data():
    names = ["</script><script>alert(1)</script>", "<!--<script>", "a\u2028b", "caf\udce9"]
    text = example_figures.script_data({"names": names})
    assert json.loads(text)["names"] == names and not set("<>&") & set(text)
    text.encode("ascii")


def test_it_refers_to_nothing_outside(evaluated):
    _, path = evaluated
    text = path.read_text()
    page = Page(text)
    own = {f"#{name}" for name in page.ids}
    assert all(reference.startswith("data:") or reference in own for reference in page.references)
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)
    for name in (*inline_files.STYLES, *inline_files.SCRIPTS):
        own = inline_files.text(name)
        assert not re.search(r"url\(|@import|fetch\(|XMLHttp|eval\(|innerHTML|import\(|https?:", own), name


def test_the_policy_allows_what_is_there_and_nothing_else(evaluated):
    _, path = evaluated
    page = Page(path.read_text())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', path.read_text()).group(1)
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert allowed["img-src"] == "data:" and "unsafe" not in policy
    for tag in ("style", "script"):
        blocks = [text for own, attributes, text in page.blocks if own == tag and "type" not in attributes]
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in blocks]
        assert allowed[f"{tag}-src"].split() == [f"'sha256-{own}'" for own in hashes] and hashes


def test_a_wheel_has_the_scripts_and_style_sheets():
    folder = ROOT / "tokenizers" / "vistok" / "evaluation" / "report"
    settings = (ROOT / "pyproject.toml").read_text()
    patterns = json.loads(re.search(r'"vistok.evaluation.report" = (\[.*\])', settings).group(1))
    beside = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert beside == {*inline_files.STYLES, *inline_files.SCRIPTS}
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in beside)


def test_every_value_is_that_of_the_file(evaluated):
    content, path = evaluated
    page = Page(path.read_text())
    data, values = data_of(page), np.load(path.with_suffix(".npz"))
    names = values["names"].tolist()
    assert sorted(data["names"]) == names and data["images"] == 9
    shape = (2, len(data["columns"]), 9)
    own, ranks = numbers(data["values"], "<f4", *shape), numbers(data["ranks"], "<i4", *shape)
    medians = numbers(data["medians"], "<f4", *shape[:2])
    order = [names.index(name) for name in data["names"]]
    columns = {f"{column['protocol']}/{column['metric']}" for column in data["columns"]}
    assert columns == {
        key[2:] for key in values if key.startswith("0/") and "tokens" not in key and "counts" not in key
    }
    for t in range(2):
        for c, column in enumerate(data["columns"]):
            expected = values[f"{t}/{column['protocol']}/{column['metric']}"]
            assert np.array_equal(own[t, c], expected[order])
            sign = -1 if column["better"] == "lower" else 1
            assert ranks[t, c].tolist() == [1 + (sign * expected > sign * own[t, c, i]).sum() for i in range(9)]
            assert medians[t, c] == np.median(expected)
            assert column["better"] == better(column["metric"])
    cells = re.findall(r'<tr data-column="(\d+)">.*?</th>(.*?)</tr>', path.read_text())
    assert len(cells) == 9 * len(data["columns"])
    for k, (c, row) in enumerate(cells):
        shown = re.findall(r"<td[^>]*>([^<]+)</td>", row)
        of_image = own[:, int(c), k // len(data["columns"])].tolist()
        assert shown == [_with_unit(data["columns"][int(c)]["metric"], value)[0] for value in of_image]


def test_every_distance_has_a_direction(evaluated):
    assert all(better(name) for name in DISTANCES)
    _, path = evaluated
    assert re.search(r'psnr\xa0<span class="arrow"[^>]*"higher is better"[^>]*>↑', path.read_text())
    assert (
        re.search(r'aria-label="lower is better"[^>]*>↓', labels.explained_arrow("l1"))
        and labels.explained_arrow("tokens") == ""
    )


def test_codes_of_every_image_are_on_it(evaluated):
    _, path = evaluated
    data = data_of(Page(path.read_text()))
    counts = sum(
        np.bincount(numbers(own[0]["codes"], "u1", own[0]["codebooks"], -1)[0], minlength=16) for own in data["tokens"]
    )
    assert np.array_equal(counts, np.load(path.with_suffix(".npz"))["0/adm/counts/0"])
    assert data["tokens"][0][0]["grids"] == [[4, 4]]


def scores_with(layout: Layout, **more) -> SimpleNamespace:
    return SimpleNamespace(layout=lambda height, width: layout, **more)


def example_of(codes: torch.Tensor, keep: torch.Tensor | None = None, side: int = 32) -> Example:
    image = torch.randint(256, (3, side, side), dtype=torch.uint8)
    return Example(image, image.flip(1), codes, keep)


@pytest.mark.parametrize("size, width", [(256, 1), (257, 2), (65536, 2), (65537, 4), (2**36, 8)])
def test_codes_of_any_size_are_packed(size, width):
    codes = torch.randint(size, (2, 4, 4))
    codes[0, 0, 0] = size - 1
    own = token_data.token_data(scores_with(Layout(((4, 4),), 2)), example_of(codes), 1e6)
    assert own["bytes"] == width and own["codebooks"] == own["of"] == 2 and own["keep"] is None
    assert np.array_equal(numbers(own["codes"], f"<u{width}", 2, 4, 4), codes.numpy())


def test_any_layout_is_taken_and_only_so_many_codebooks():
    grids = ((1, 1), (2, 2), (4, 4))
    codes, keep = torch.arange(3 * 21).view(3, 1, 21), torch.arange(21)[None] < 5
    scores = scores_with(Layout(grids, 3))
    own = token_data.token_data(scores, example_of(codes, keep), 2 * (21 * 4 / 3 + 4))
    assert own["grids"] == [[1, 1], [2, 2], [4, 4]] and (own["codebooks"], own["of"]) == (2, 3)
    assert numbers(own["keep"], "u1", 21).sum() == 5
    assert token_data.token_data(scores, example_of(codes), 20) is None  # no room
    assert token_data.token_data(scores, Example(*2 * [torch.zeros(3, 8, 8)]), 1e6) is None  # nothing but pixels
    other = token_data.token_data(scores_with(Layout(((8, 8),))), example_of(codes), 1e6)
    assert other["grids"] == [[1, 21]]  # of another size than the layout: a sequence


@pytest.mark.parametrize("side", [32, 200])
def test_pictures_fit_into_their_room(side):
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for room in (300_000, 3_000):
        uris = thumbnails.fitted([noise, noise[::-1]], room)
        assert sum(map(len, uris)) <= room and len(uris) == 2
        one, other = (np.array(Image.open(io.BytesIO(b64decode(uri.split(",")[1])))) for uri in uris)
        assert one.shape == other.shape
        if room == 300_000:
            assert one.shape == noise.shape
    assert np.abs(one.mean() - noise.mean()) < 8


@pytest.mark.parametrize("tokenizers", [1, 3])
def test_a_thousand_images_have_at_most_30_megabytes(monkeypatch, tokenizers):
    """Pictures that take all the room they get, names of 120 characters, 1,024 codes of 8 codebooks, 20 metrics."""
    given = []

    def greedy(pictures, room):
        assert room > 14_000  # enough to show pictures of 256 pixels
        given.append(room)
        return [*("" for _ in pictures[1:]), "x" * int(room)]

    monkeypatch.setattr(example_figures, "fitted", greedy)
    names = sorted(f"{i:04d}{'é' * 116}" for i in range(1000))
    metrics = {f"psnr_{i}": torch.rand(1000) for i in range(20)}
    results = []
    for _ in range(tokenizers):
        chosen = Examples(1000)
        example = example_of(torch.randint(65536, (8, 32, 32)), side=16)
        chosen.ranked["drawn"] = [(f"{i:04d}", name) for i, name in enumerate(names)]
        chosen.kept = dict.fromkeys(names, example)
        layout = Layout(((32, 32),), 8)
        own = scores_with(layout, names=names, examples=chosen, values=lambda protocol: metrics)
        results.append({"adm": own})
    report = {"protocols": {"canonical": {"preparation": "adm"}}}
    page = example_figures.examples([f"tokenizer {i}" for i in range(tokenizers)], report, results)
    assert len(given) == 1000 and 20e6 < len(page.encode()) < 27.1e6


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_text_has_contrast_in_light_and_dark():
    """WCAG 2's 4.5 for text, 3 for the ring around what has the focus."""
    style = inline_files.text("report.css")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("prefers-color-scheme: dark"))
    for colours in (light, dark):
        for front, least in (("ink", 4.5), ("soft", 4.5), ("accent", 3)):
            for back in ("page", "card"):
                low, high = sorted(luminance(colours[name]) + 0.05 for name in (front, back))
                assert high / low >= least, (front, back)


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
    shown, kind = decoded(f'"{thumbnails.fitted([pixels], 1e6)[0]}"')
    assert kind == "webp" and np.array_equal(shown, pixels)
    smooth = np.tile(np.arange(128, dtype=np.uint8)[:, None, None], (1, 128, 3))
    shown, kind = decoded(f'"{thumbnails.fitted([smooth], 1e6)[0]}"')
    assert kind == "webp" and np.abs(shown.astype(int) - smooth).max() <= 2


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
    simvq = [f"runs/photos-simvq/2026-12-0{day}_05-13-11" for day in (1, 2)]
    assert labels.distinct([simvq[0], "runs/sample/2026-12-01_05-06-37/tokenizer"]) == ["photos-simvq", "sample"]
    assert labels.distinct(simvq) == ["photos-simvq/2026-12-01_05-13-11", "photos-simvq/2026-12-02_05-13-11"]
    assert labels.short("2026-12-01_05-13-11") == "2026-12-01_05-13-11"


def test_the_legend_of_rates_names_what_is_drawn():
    """Images that any model wrote have no rate."""
    rates = {"bits_per_pixel": 1.0, "bits_per_pixel_entropy": 0.9}
    metrics = {"runs/first": {"psnr": 20.0} | rates, "runs/second": {"psnr": 21.0} | rates, "written": {"psnr": 30.0}}
    scores = [
        {"tokenizer": name, "protocol": "canonical", "hash": "0", "metrics": own} for name, own in metrics.items()
    ]
    report = {"protocols": {"canonical": {}}, "tokenizers": [{"tokenizer": name} for name in metrics], "scores": scores}
    drawn = rate_distortion(report)
    assert "first</li>" in drawn and "second</li>" in drawn and "written" not in drawn


def test_columns_are_named_by_the_part_of_the_path_that_differs():
    named = labels.without_common_folders
    assert named(["runs/photos-sweep/now/vq", "runs/photos-sweep/now/fsq"]) == ["vq", "fsq"]
    assert named(["runs/vq/first", "/data/vq"]) == ["runs/vq/first", "/data/vq"]
    assert named(["runs/a", "runs/a/tokenizer"]) == ["a", "a/tokenizer"]
    assert named(["runs/a/now"]) == ["runs/a/now"] and named(["x", "x"]) == ["x", "x"] and named([]) == []
