"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402
import repository  # noqa: E402

import afdsim  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "afdsim"
author = "the afdsim authors"
release = version = afdsim.__version__
copyright = ""

extensions = ["myst_parser", "sphinx.ext.autodoc"]  # docstrings are prose: no napoleon, which reads "a: b" as a type
exclude_patterns = ["_build", "**/*.head.md", "*.head.md"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages: their sites are not fetched
default_role = "code"
myst_heading_anchors = 4
suppress_warnings = ["config.cache"]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
autodoc_class_signature = "separated"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"afdsim {release}"
html_static_path = ["_static"]
html_css_files = ["afdsim.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "default"


def setup(app: Sphinx) -> None:
    """Make the pages that come from code and from other documents."""
    repository.copy()
    generate.write()
    pages = repository.homes()

    def read(_: Sphinx, name: str, content: list[str]) -> None:
        page = HERE / f"{name}.md"
        if not page.is_relative_to(repository.MADE):
            content[0] = repository.moved(content[0], page, page, pages)

    app.connect("source-read", read)
