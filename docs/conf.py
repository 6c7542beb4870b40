"""Settings of the site: `make docs` builds it into docs/_build/html."""

import re
import shutil
from pathlib import Path

from sphinx_gallery.sorting import FileNameSortKey

import skinfluence

project = "skinfluence"
author = "the skinfluence developers"
copyright = author
release = version = skinfluence.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py"]
# Titles of result files do not all start at the first level, and what is inherited from
# scikit-learn names terms of its glossary.
suppress_warnings = ["myst.header", "config.cache", "ref.term"]

autosummary_generate = True
templates_path = ["_templates"]
numpydoc_show_class_members = False
default_role = "autolink"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": FileNameSortKey,
    "backreferences_dir": "generated",
    "doc_module": ("skinfluence",),
    "reference_url": {"skinfluence": None},
    "remove_config_comments": True,
    "show_memory": False,
    # These pages would load a script from another site.
    "write_computation_times": False,
    "abort_on_example_error": True,
}

# The benchmarks write their tables beside themselves; the site shows copies.
HERE = Path(__file__).parent
shutil.copytree(HERE.parent / "benchmarks" / "results", HERE / "results", dirs_exist_ok=True)

html_theme = "pydata_sphinx_theme"
html_title = "skinfluence"
html_theme_options = {"navigation_with_keys": False, "show_prev_next": False}
html_sidebars = {
    "start": [],
    "choose": [],
    "papers": [],
    "coming_from": [],
    "stability": [],
    "changes": [],
}
html_show_sourcelink = False


def escape_learned_names(app, what, name, obj, options, lines):
    """Keep a size such as ``n_features_in_`` a name, not a link of reStructuredText."""
    lines[:] = [re.sub(r"(?<=\w)_(?=[,)])", r"\\_", line) for line in lines]


def setup(app):
    """Connect the hook above, before numpydoc reads the docstrings."""
    app.connect("autodoc-process-docstring", escape_learned_names, priority=400)
