"""`vbon report`: one HTML page from run and evaluation folders; nothing is measured here."""

import importlib
from pathlib import Path
from typing import Any

from vbon.config.evaluate import ReportConfig
from vbon.errors import VbonError
from vbon.pool.files import replace_file
from vbon.report.read import read_folders


def report_command(config: ReportConfig) -> dict[str, Any]:
    """Write the page of `config.dirs` to `config.out`; the same folders give the same bytes.

    Raises VbonError for a folder that is neither run nor evaluation, a file that cannot be read, or a missing extra.
    """
    page = _page_module()
    runs, evaluations = read_folders(config.dirs)
    html = page.render(runs, evaluations)
    out = Path(config.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VbonError(f"--out {out}: its folder cannot be made ({error.strerror}); name another file") from None
    if out.is_dir():
        raise VbonError(f"--out {out} is a directory; name a file, as in --out {out / 'report.html'}")
    replace_file(out, html.encode())
    print(f"report: {out}")
    return {
        "out": str(out),
        "bytes": len(html.encode()),
        "runs": [run.name for run in runs],
        "evaluations": [evaluation.name for evaluation in evaluations],
    }


def _page_module() -> Any:
    try:
        return importlib.import_module("vbon.report.page")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise VbonError(f"vbon report needs {error.name}; run: pip install 'vbon[report]'") from None
