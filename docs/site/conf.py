"""Settings of the documentation site: `make docs` builds it from the Markdown files of the repository."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).parent)]

from vbon.version import __version__  # noqa: E402

project = "vbon"
author = "The vbon developers"
copyright = "the vbon developers. Licence: Apache-2.0"  # the name that Sphinx reads
version = release = __version__

# The pages are read where they are, so that a link works on the site as it does in the repository.
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "recipes/*/README.md",
    "recipes/*/results/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
]
exclude_patterns = [".*", "src", "tests", "benchmarks", "runs", "build", "docs/_build", "docs/site", "**/runs"]
source_suffix = {".md": "markdown"}

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "flag_reference"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "code"
add_module_names = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "vbon"
html_static_path = ["static"]
html_css_files = ["vbon.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
# Nothing is loaded from other hosts, so that the site works offline.
html_baseurl = ""
smartquotes = False
suppress_warnings: list[str] = []


def setup(app: Sphinx) -> None:
    """Write the dash between a parameter's name and its description as a dash, which napoleon spells with hyphens."""

    def dashes(_: Sphinx, document: nodes.document) -> None:
        for text in document.findall(nodes.Text):
            if text.startswith(" -- "):
                text.parent.replace(text, nodes.Text(text.replace(" -- ", " – ", 1)))

    app.connect("doctree-read", dashes)
