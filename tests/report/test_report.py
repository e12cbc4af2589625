"""The whole page: parsed for structure, and opened in a real browser where there is one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pages import Outline, shown_prompts
from tests.report.folders import HOSTILE, policy_metrics, write_evaluation, write_run

from vbon.config import ReportConfig
from vbon.errors import VbonError
from vbon.report.report import report_command

PROMPTS = ["A charming kettle", "The music was", HOSTILE, "Such a dull", "My uncle calls it"]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    policies = {"n8": policy_metrics(0.868, 1.41, 0.31, 1.9), HOSTILE: policy_metrics(0.7, 0.6, 2.0, 1.0)}
    evaluation = write_evaluation(tmp_path / "eval", policies, prompts=PROMPTS, warnings=[HOSTILE])
    out = tmp_path / "out/report.html"
    report_command(ReportConfig(dirs=(str(write_run(tmp_path / "n8")), str(evaluation)), out=str(out)))
    return out


def test_texts_from_data_are_escaped_and_all_there(page):
    outline = Outline(page.read_text())
    assert outline.count("script") == 1 and outline.count("img") == 0 and outline.count("style") == 1
    # as prompt, as completions, as the name of a policy and as a warning
    assert outline.text.count(HOSTILE) >= 4


def test_page_loads_nothing(page):
    text = page.read_text()
    tags = Outline(text).tags
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed")]
    for _, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "url(http" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_page_is_accessible_in_what_a_parser_can_see(page):
    outline = Outline(page.read_text())
    assert ("html", {"lang": "en"}) in outline.tags
    assert outline.count("h1") == 1
    svgs = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(svgs) >= 8 and all(a["role"] == "img" and a["aria-label"] for a in svgs)
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in outline.tags if tag == "th")
    assert outline.count("caption") == outline.count("table")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in outline.tags if tag == "a"}
    assert targets <= set(ids)


def test_same_folders_same_bytes(page, tmp_path):
    again = tmp_path / "again.html"
    report_command(ReportConfig(dirs=(str(tmp_path / "n8"), str(tmp_path / "eval")), out=str(again)))
    assert again.read_bytes() == page.read_bytes()


def test_a_run_alone_says_that_nothing_was_evaluated(tmp_path):
    out = tmp_path / "report.html"
    report_command(ReportConfig(dirs=(str(write_run(tmp_path / "n8")),), out=str(out)))
    assert "cannot say how close" in Outline(out.read_text()).text


def test_an_out_that_is_a_directory_is_refused(tmp_path):
    run = write_run(tmp_path / "n8")
    with pytest.raises(VbonError, match="is a directory"):
        report_command(ReportConfig(dirs=(str(run),), out=str(tmp_path)))


def test_without_the_extra_one_line_names_it(tmp_path):
    run = write_run(tmp_path / "n8")
    hide = "import sys; sys.modules['jinja2'] = None; from vbon.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", hide, "report", str(run), "--out", str(tmp_path / "r.html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.search(r"vbon: error: .*jinja2.*pip install -e '\.\[report\]'", done.stderr)
    assert "Traceback" not in done.stderr


def test_browser_runs_the_page_without_errors_and_nothing_hostile_runs(page, browse):
    dom, log = browse(page)
    assert "CONSOLE" not in log
    assert "<title>vbon report" in dom
    assert len(shown_prompts(dom)) == len(PROMPTS)
    assert "5 of 5 prompts" in dom


def test_browser_filters_and_sorts_by_the_address(page, browse):
    dom, log = browse(page, "q=KETTLE&where=prompt")
    assert shown_prompts(dom) == ["A charming kettle"]
    assert "1 of 5 prompts" in dom
    dom, log = browse(page, "order=best-high")
    # rewards rise with the prompt's place, so the highest come first in reverse
    assert [prompt[:9] for prompt in shown_prompts(dom)] == [
        "My uncle ",
        "Such a du",
        "&lt;scrip",
        "The music",
        "A charmin",
    ]
    assert "CONSOLE" not in log
