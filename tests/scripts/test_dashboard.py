"""The dashboard of asv's results, in a browser: plots, clicks, no error and nothing from afar."""

from __future__ import annotations

import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest
from cases import JIT_DISABLED

pytestmark = pytest.mark.skipif(JIT_DISABLED, reason="nothing is computed here")

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "dashboard.py"
HISTORY = ROOT / "asv_benchmarks" / "history"
SCREENSHOTS = ROOT / ".asv" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# Whether something other than the background is drawn: canvases that are there, and empty ones.
CANVASES = """
() => {
  const drawn = canvas => {
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    const colours = new Set()
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 0) colours.add(data.slice(i, i + 3).join())
    return [...colours].some(colour => {
      const [r, g, b] = colour.split(',').map(Number)
      return Math.max(r, g, b) - Math.min(r, g, b) > 40
    })
  }
  const seen = [...document.querySelectorAll('canvas.flot-base')].filter(c => c.offsetParent)
  return {count: seen.length, empty: seen.filter(canvas => !drawn(canvas)).length}
}
"""


def make(out, *arguments):
    command = [sys.executable, str(SCRIPT), "--out", str(out), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """The history of the project, and a user's results of the last commit, twice as fast."""
    pytest.importorskip("asv")
    if not (ROOT / ".git").exists():
        pytest.skip("asv needs the repository's commits")
    folder = tmp_path_factory.mktemp("dashboard")
    machine = folder / "results" / "laptop"
    machine.mkdir(parents=True)
    about = json.loads((HISTORY / "epyc-2" / "machine.json").read_text())
    (machine / "machine.json").write_text(json.dumps(about | {"machine": "laptop"}))
    for path in HISTORY.glob("epyc-2/7d212904*.json"):
        results = json.loads(path.read_text())
        results["params"]["machine"] = "laptop"
        (machine / path.name).write_text(json.dumps(results))
    described = json.loads((HISTORY / "benchmarks.json").read_text())
    described["loops.New.time_new"] = described["loops.Products.time_multiply"] | {
        "name": "loops.New.time_new"  # never run
    }
    (folder / "results" / "benchmarks.json").write_text(json.dumps(described))
    out = folder / "html"
    done = make(out, "--results", folder / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of these browsers is installed: {', '.join(BROWSERS)}")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


class Visit:
    """A page of the dashboard, and what went wrong with it."""

    def __init__(self, browser, folder):
        handler = functools.partial(Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.problems = []
        self.page = browser.new_page(viewport={"width": 1400, "height": 900})
        self.page.set_default_timeout(30_000)
        self.page.on("console", self.said)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self.asked)
        self.page.on("response", self.answered)

    def said(self, message):
        if message.type == "error":
            self.problems.append(message.text)

    def asked(self, request):
        if not request.url.startswith((self.address, "data:")):
            self.problems.append(f"asked for {request.url}")

    def answered(self, response):
        if response.status >= 400 and not response.url.endswith("favicon.ico"):
            self.problems.append(f"{response.status} of {response.url}")

    def plots(self, at_least, name):
        """Wait until so many plots are drawn; keep a picture of the page."""
        self.page.wait_for_function(f"() => ({CANVASES})().count >= {at_least}")
        self.page.wait_for_function(f"() => ({CANVASES})().empty == 0")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")
        return self.page.evaluate(CANVASES)["count"]

    def close(self):
        self.page.close()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def visit(browser, dashboard):
    visit = Visit(browser, dashboard)
    yield visit
    visit.close()


def test_a_walk_through_the_dashboard(visit, dashboard):
    page = visit.page
    page.goto(visit.address)
    shown = page.locator("#summarygrid-display .benchmark-container")
    shown.first.wait_for()
    names = json.loads((dashboard / "index.json").read_text())["benchmarks"]
    assert shown.count() == len(names) > 30
    assert visit.plots(9, "grid") >= 9, "those in sight"

    page.get_by_text("Steps.time_steps", exact=True).click()
    assert visit.plots(1, "graph") >= 1
    assert "training.Steps.time_steps" in page.url
    before = page.locator("#main-graph canvas.flot-base").screenshot()
    page.locator("#graphdisplay-navigation-params a").get_by_text("2", exact=True).click()
    visit.plots(1, "graph-both-threads")
    assert page.locator("#main-graph canvas.flot-base").screenshot() != before
    page.get_by_text("laptop", exact=True).wait_for()  # the user's own results

    page.get_by_text("Regressions", exact=True).first.click()
    rows = page.locator("#regressions-body tbody tr")
    rows.first.wait_for()
    found = json.loads((dashboard / "regressions.json").read_text())["regressions"]
    assert rows.count() == len(found) > 0
    page.screenshot(path=SCREENSHOTS / "regressions.png")
    rows.first.locator("a").first.click()
    visit.plots(1, "regression")

    page.get_by_text("Benchmark list", exact=True).first.click()
    page.locator("#summarylist-body tbody tr").first.wait_for()
    page.screenshot(path=SCREENSHOTS / "list.png")
    assert visit.problems == []
    assert len(list(SCREENSHOTS.glob("*.png"))) >= 6


@pytest.mark.parametrize("lost", ["library", "graph"])
def test_what_is_missing_is_noticed(browser, dashboard, tmp_path, lost):
    """The walk above would fail: on an error of the page, or on a graph without data."""
    from playwright.sync_api import TimeoutError as TimedOut

    broken = tmp_path / "html"
    shutil.copytree(dashboard, broken)
    if lost == "library":
        (broken / "libraries" / "jquery.flot.js").unlink()
    else:
        for path in broken.rglob("graphs/**/training.Steps.time_steps.json"):
            path.write_text("[]")
    visit = Visit(browser, broken)
    visit.page.set_default_timeout(3_000)
    try:
        visit.page.goto(visit.address + "#training.Steps.time_steps")
        try:
            visit.plots(1, f"without-a-{lost}")
        except TimedOut:
            visit.problems.append("no plot")
        assert visit.problems
    finally:
        visit.close()


def test_history_has_ten_commits_of_this_project():
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository's commits")
    commits = [path.name[:8] for path in HISTORY.glob("epyc-2/*-*.json")]
    assert len(commits) >= 10
    command = ["git", "-C", str(ROOT), "log", "--format=%H"]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [commit for commit in commits if f"\n{commit}" not in f"\n{known}"] == []


def test_mistakes(tmp_path):
    done = make(tmp_path / "out", "--results", tmp_path)
    assert done.returncode == 2
    assert "expected a folder with a machine's results" in done.stderr
    machine = tmp_path / "results" / "some-machine"
    machine.mkdir(parents=True)
    (machine / "machine.json").write_text("{")
    done = make(tmp_path / "out", "--results", machine.parent)
    assert done.returncode == 1
    assert "machine.json: expected a JSON file of asv" in done.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    done = make(tmp_path / "mine")
    assert done.returncode == 2
    assert "holds something else than a dashboard" in done.stderr
    assert (tmp_path / "mine" / "thesis.txt").exists()
