"""Sphinx configuration."""

from __future__ import annotations

import granite_core

project = "Granite"
author = "The Granite developers"
copyright = "2026, The Granite developers"  # noqa: A001 - Sphinx's name for it
release = version = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "changelog/TEMPLATE.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# What SQLAlchemy asks of its types, not of their users.
autodoc_default_options = {"exclude-members": "cache_ok, inherit_cache, impl"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = "shibuya"
html_title = "Granite"
html_theme_options = {"accent_color": "iris", "light_logo": "", "dark_logo": ""}

assert granite_core.__all__, "the reference is written from it"
