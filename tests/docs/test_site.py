"""The documentation site: it builds without a warning, loads nothing from other hosts, and opens in a browser."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pages import Outline

from vbon import config
from vbon.cli import VERBS
from vbon.config.fields import spelling

LIMIT = 1200  # seconds; a build takes about 15 on one free core, and far more on a machine that does much else
ROOT = Path(__file__).resolve().parents[2]
STATUS = re.compile(r"\*Status:\s(tested\son\sCPU|tested\son\sone\sGPU|tested\son\sseveral\sGPUs|not\srun)")
PROBE = """<script>
addEventListener("load", () => {
  const shown = [...document.querySelectorAll("math")].map((math) => getComputedStyle(math).display);
  const fractions = [...document.querySelectorAll("mfrac")].map((one) => {
    const [top, bottom] = [...one.children].map((child) => child.getBoundingClientRect());
    return top.bottom <= bottom.top + 1;
  });
  const images = [...document.images].map((image) => image.naturalWidth);
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  const width = [document.documentElement.scrollWidth, innerWidth];
  document.body.dataset.probe = JSON.stringify({shown, fractions, images, loaded, width});
});
</script>"""

pytestmark = pytest.mark.timeout(LIMIT)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build as `make docs` does, in a folder of its own. A warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/site", "-b", "html"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-d", str(out / "doctrees"), ".", str(out / "html")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out / "html"


def built_pages(site: Path) -> list[Path]:
    return [page for page in sorted(site.rglob("*.html")) if "_static" not in page.parts]


def test_every_page_is_built(site: Path):
    sources = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*/README.md")]
    expected = [path.relative_to(ROOT).with_suffix(".html") for path in sources if "_build" not in path.parts]
    assert [str(path) for path in expected if not (site / path).is_file()] == []
    assert "docs/index.html" in (site / "index.html").read_text()


def test_no_page_refers_to_another_host_for_what_it_loads(site: Path):
    found = []
    for page in built_pages(site):
        outline = Outline(page.read_text(encoding="utf-8"))
        loaded = [(tag, a.get("src") or (a.get("href") if tag == "link" else None)) for tag, a in outline.tags]
        found += [(page.name, tag, address) for tag, address in loaded if re.match(r"(https?:)?//", address or "")]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert found == [] and not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


@pytest.mark.parametrize("verb", VERBS)
def test_the_reference_of_a_verb_has_each_of_its_flags(site: Path, verb: str):
    text = html.unescape((site / f"docs/reference/cli/{verb}.html").read_text(encoding="utf-8"))
    terms = " ".join(re.findall(r"<dt>(.*?)</dt>", text, re.DOTALL))
    names = [spelling(field) for field in dataclasses.fields(getattr(config, VERBS[verb].config))]
    assert [name for name in names if not re.search(rf">{re.escape(name)}\b", terms)] == []


def test_the_python_reference_has_the_public_names(site: Path):
    text = (site / "docs/reference/api.html").read_text(encoding="utf-8")
    for name in ("VBoNTrainer.train", "ReferencePool.open", "RewardCDF.interval", "best_of_n.log_weight"):
        assert re.search(rf'id="vbon\.[\w.]*{re.escape(name)}"', text), name


@pytest.mark.parametrize(
    "page", ["docs/index", "docs/how-it-works", "docs/research/results", "docs/reference/cli/train"]
)
def test_a_browser_opens_the_page_with_its_mathematics_and_pictures(site: Path, page: str, browse):
    source = site / f"{page}.html"
    probed = source.with_name(f"probed-{source.name}")
    probed.write_text(source.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dom, log = browse(probed)
    probed.unlink()
    seen = json.loads(html.unescape(re.findall(r'data-probe="(.*?)"', dom)[0]))
    assert "CONSOLE" not in log, log
    assert [address for address in seen["loaded"] if not address.startswith("file:")] == []
    assert all(width > 0 for width in seen["images"])
    assert all("math" in display for display in seen["shown"])
    if page == "docs/how-it-works":
        assert len(seen["shown"]) > 40 and seen["fractions"] and all(seen["fractions"])
        assert len(seen["images"]) >= 4


def pages_of_users() -> list[Path]:
    unedited = {"experiments.md", "yardsticks.md", "sweep-demo.md", "sweep-lab.md"}
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*/README.md"), ROOT / "CONTRIBUTING.md"]
    return [path for path in pages if "_build" not in path.parts and path.name not in unedited | {"index.md"}]


@pytest.mark.parametrize("page", pages_of_users(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_says_at_its_top_what_its_commands_were_run_on(page: Path):
    top = "\n".join(page.read_text(encoding="utf-8").splitlines()[:14])
    assert STATUS.search(top.replace("\n", " "))
