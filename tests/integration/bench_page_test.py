#!/usr/bin/env python3
"""Runs engram-bench, makes a page of its reports and looks at it in a real browser: every plot is drawn,
no text of a plot lies over another or outside it, the page fits a phone, both colour schemes show.
usage: bench_page_test.py FOLDER_OF_PROGRAMS [FOLDER_TO_KEEP_PICTURES_IN]"""
import html
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy

SKIPPED = 77  # tests/integration/CMakeLists.txt

# Measures the page from inside; the page itself has no script.
MEASURE = """
<script>
const box = element => {
  const r = element.getBoundingClientRect();
  return [r.left + scrollX, r.top + scrollY, r.right + scrollX, r.bottom + scrollY];
};
const plots = [...document.querySelectorAll('svg[role=img]')].map(svg => ({
  label: svg.getAttribute('aria-label'),
  box: box(svg),
  texts: [...svg.querySelectorAll('text')].map(text => [text.textContent, box(text)]),
  marks: svg.querySelectorAll('.mark, .bar').length,
  lines: [...svg.querySelectorAll('path.line')].map(path => path.getTotalLength()),
  limits: svg.querySelectorAll('line.limit').length,
  titles: svg.querySelectorAll('title').length,
}));
parent.postMessage(JSON.stringify({
  plots, width: innerWidth, needed: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  tables: document.querySelectorAll('table').length,
  questions: [...document.querySelectorAll('h2')].map(heading => heading.textContent),
}), '*');
</script>
"""
# A window cannot be as narrow as a phone; a frame can.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><pre id="measured"></pre>
<script>
addEventListener('message', event => {
  document.getElementById('measured').textContent = event.data;
});
</script>
<iframe src="measured.html" style="border:0;width:WIDTHpx;height:1000px"></iframe>
"""


class Page:
    def __init__(self, chromium, folder, file):
        self.chromium = chromium
        self.folder = folder
        self.file = file

    def _browse(self, *arguments, file):
        # As root chromium has no sandbox; what it opens is our own.
        return subprocess.run(
            [self.chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
             f"--user-data-dir={self.folder / 'profile'}", *arguments, file.as_uri()],
            check=True, capture_output=True, text=True, timeout=120).stdout

    def measure(self, width):
        """What a copy of the page with a script in it finds, in a frame of that width."""
        text = self.file.read_text(encoding="utf-8")
        text, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        assert policies == 1, "the page should forbid scripts and everything from elsewhere"
        copy = self.folder / "measured.html"
        copy.write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
        frame = self.folder / "frame.html"
        frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        dom = self._browse("--window-size=1400,1100", "--virtual-time-budget=5000", "--dump-dom",
                           file=frame)
        measured = json.loads(
            html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom).group(1)))
        assert measured["width"] == width, measured["width"]
        return measured

    def screenshot(self, name, width, height, dark):
        picture = self.folder / name
        # Blink's names for the schemes: 0 is dark, 1 is light.
        self._browse(f"--window-size={width},{height}", f"--screenshot={picture}",
                     f"--blink-settings=preferredColorScheme={0 if dark else 1}", file=self.file)
        return decode_png(picture.read_bytes())


def decode_png(data):
    """[height, width, 3] of an 8-bit RGB or RGBA picture."""
    at, body, head = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        chunk = data[at + 8:at + 8 + length]
        head = struct.unpack(">IIBBBBB", chunk) if kind == b"IHDR" else head
        body += chunk if kind == b"IDAT" else b""
        at += length + 12
    width, height, bits, colours = head[:4]
    assert bits == 8 and colours in (2, 6) and head[6] == 0, head
    size = 3 if colours == 2 else 4
    raw = numpy.frombuffer(zlib.decompress(body), numpy.uint8).reshape(height, 1 + width * size)
    out = numpy.zeros((height, width * size), numpy.uint8)
    above = numpy.zeros(width * size, numpy.uint8)
    for y in range(height):
        row, filtered = raw[y, 1:], raw[y, 0]
        if filtered == 0:
            above = row
        elif filtered == 1:
            above = numpy.cumsum(row.reshape(width, size), axis=0, dtype=numpy.uint8).reshape(-1)
        elif filtered == 2:
            above = row + above
        else:
            above = unfilter(row.tolist(), above.tolist(), size, filtered == 4)
        out[y] = above
    return out.reshape(height, width, size)[:, :, :3]


def unfilter(row, above, size, paeth):
    """PNG's filters 3 (average) and 4 (Paeth) undone."""
    out = [0] * len(row)
    for i, value in enumerate(row):
        left = out[i - size] if i >= size else 0
        up = above[i]
        if paeth:
            corner = above[i - size] if i >= size else 0
            estimate = left + up - corner
            a, b, c = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
            guess = left if a <= b and a <= c else up if b <= c else corner
        else:
            guess = (left + up) // 2
        out[i] = (value + guess) & 255
    return numpy.array(out, numpy.uint8)


def check_layout(measured, width):
    assert measured["needed"] <= width, \
        f"the page is {measured['needed']} wide in a window of {width}"
    for plot in measured["plots"]:
        left, top, right, bottom = plot["box"]
        texts = plot["texts"]
        for text, box in texts:
            assert box[0] >= left - 2 and box[2] <= right + 2 and box[1] >= top - 2 and \
                box[3] <= bottom + 2, f"{text!r} leaves its plot {plot['label']!r}"
        for i, (text, a) in enumerate(texts):
            for other, b in texts[:i]:
                # Boxes of text have some air above and below.
                over = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                assert over[0] <= 0.5 or over[1] <= 3, \
                    f"{text!r} lies over {other!r} in {plot['label']!r} at a width of {width}"


def check_pictures(plots, picture, background_of_page):
    assert numpy.abs(picture[2, 2].astype(int) - background_of_page).max() < 8, picture[2, 2]
    for plot in plots:
        left, top, right, bottom = (round(edge) for edge in plot["box"])
        area = picture[top:bottom, left:right].astype(int)
        background = area[1, -2]
        drawn = numpy.abs(area - background).max(axis=2) > 40
        # Colours, unlike text and axes, have channels that differ.
        coloured = (area.max(axis=2) - area.min(axis=2)) > 90
        assert drawn.sum() > 1500, f"{plot['label']!r}: only {drawn.sum()} pixels are drawn"
        assert coloured.sum() > 150, f"{plot['label']!r}: only {coloured.sum()} are coloured"


def make_reports(bench, folder):
    def run(*arguments):
        subprocess.run([bench, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=300)

    for name in ("before", "after"):
        run("hash", "--batch", "1", "32", "256", "4096", "--repetitions", "3", "--seconds", "0.001",
            "--json", folder / f"{name}.json")
    run("placement", "--nodes", "20", "--slots", "5000", "--repetitions", "2", "--json",
        folder / "placement.json")
    # The kind of plot and the scale that these have not, with known values.
    report = json.loads((folder / "placement.json").read_text(encoding="utf-8"))
    report |= {"benchmark": "made up", "title": "How long does it <i>take</i>?", "tables": []}
    report["plots"] = [{
        "title": "Latency of a batch", "kind": "cdf",
        "x": {"label": "latency", "unit": "s", "scale": "log10"}, "y": {"label": "batches"},
        "series": [{"name": f"{rows} rows",
                    "points": [[rows * 1e-6 * (1 + i * i / 500), (i + 1) / 200] for i in range(200)]}
                   for rows in (48, 1536)]}]
    (folder / "made-up.json").write_text(json.dumps(report), encoding="utf-8")
    page = folder / "page.html"
    run("report", *(folder / f"{name}.json" for name in ("before", "after", "placement", "made-up")),
        "--out", page)
    return page


def main():
    chromium = shutil.which("chromium")
    if chromium is None:
        print("skipped: no chromium here; deploy/install-deps installs it")
        return SKIPPED
    bench = pathlib.Path(sys.argv[1]) / "engram-bench"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = pathlib.Path(scratch)
        page = Page(chromium, folder, make_reports(bench, folder))
        wide = page.measure(1200)
        assert len(wide["questions"]) == 3, wide["questions"]
        assert "How long does it <i>take</i>?" in wide["questions"]
        assert wide["tables"] == 5, wide["tables"]  # two of each run of hash, one of placement
        # v41 and demo, each with both runs; time and bytes of placement; the made-up one.
        assert len(wide["plots"]) == 5, [plot["label"] for plot in wide["plots"]]
        for plot in wide["plots"]:
            assert plot["marks"] >= 6 and plot["titles"] >= plot["marks"], plot["label"]
            assert all(length > 100 for length in plot["lines"]), plot["label"]
        for width in (1200, 640, 390):
            check_layout(page.measure(width), width)
        height = wide["height"]
        light = page.screenshot("light.png", 1200, height, dark=False)
        check_pictures(wide["plots"], light, numpy.array([0xf5, 0xf6, 0xf8]))
        dark = page.screenshot("dark.png", 1200, height, dark=True)
        check_pictures(wide["plots"], dark, numpy.array([0x0d, 0x11, 0x17]))
        print(f"{len(wide['plots'])} plots drawn, light and dark, at three widths")
        if len(sys.argv) > 2:
            for name in ("light.png", "dark.png", "page.html"):
                shutil.copy(folder / name, sys.argv[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
