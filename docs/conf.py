"""How the documentation becomes a site: make docs, then site/index.html."""

import hardneg_plugin

project = "hardneg_plugin"
author = copyright = "hardneg_plugin developers"
release = version = hardneg_plugin.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "hardneg_plugin"
html_copy_source = html_show_sourcelink = False

# Headings have anchors, as on a forge; a link that leads nowhere is a warning, and make docs fails of any.
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # tables of shapes in code blocks are no Python

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "training, forward"}
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
