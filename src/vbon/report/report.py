"""`vbon report`: one HTML page from run and evaluation folders, or from a sweep's; nothing is measured here."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vbon.artifacts.files import replace_file
from vbon.artifacts.sweep import is_sweep
from vbon.config.evaluate import ReportConfig
from vbon.errors import VbonError
from vbon.report.read import read_folders, read_sweep

PAGE_START = b"<!doctype html"


def report_command(config: ReportConfig) -> dict[str, Any]:
    """Write the page of `config.dirs` to `config.out`; the same folders give the same bytes.

    Raises VbonError for a folder that is none of these, a sweep beside others, a file that cannot be read, or a
    missing extra.
    """
    out = Path(config.out)
    _check_out(out)
    html, read = _page(config.dirs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VbonError(f"--out {out}: its folder cannot be made ({error.strerror}); name another file") from None
    replace_file(out, html.encode())
    print(f"report: {out}")
    return {"out": str(out), "bytes": len(html.encode()), **read}


def _check_out(out: Path) -> None:
    """Before the figures are drawn: only a page is replaced."""
    if out.is_dir():
        raise VbonError(f"--out {out} is a directory; name a file, as in --out {out / 'report.html'}")
    if out.is_file() and not _is_page(out):
        raise VbonError(f"--out {out}: is there already and no page; name another file")


def _is_page(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(PAGE_START)).lower() == PAGE_START
    except OSError:
        return False


def _page(dirs: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """The page, and the names of what is on it: one sweep, or runs and evaluations."""
    sweeps = [path for path in dirs if is_sweep(Path(path))]
    page = _page_module()
    if not sweeps:
        runs, evaluations = read_folders(dirs)
        names = {"runs": [run.name for run in runs], "evaluations": [one.name for one in evaluations]}
        return page.render(runs, evaluations), names
    if len(dirs) > 1:
        raise VbonError(f"{sweeps[0]} is a sweep, which has a page of its own; report it alone")
    comparison = read_sweep(Path(sweeps[0]))
    return page.render_comparison(comparison), {"sweeps": [comparison.name]}


def _page_module() -> Any:
    try:
        return importlib.import_module("vbon.report.page")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise VbonError(f"vbon report needs {error.name}; in vbon's clone run: pip install -e '.[report]'") from None
