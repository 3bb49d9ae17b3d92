"""How Sphinx builds the documentation."""

from __future__ import annotations

import sys
from pathlib import Path

from kling_async import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "kling_async"
author = "The kling_async authors"
release = __version__
extensions = [
    "command_tables",
    "llms_txt",
    "model_tables",
    "package_map",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
# They stand outside of all landmarks.
html_theme_options: dict[str, object] = {"top_of_page_buttons": []}
html_title = f"kling_async {release}"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# `name` in a docstring is a reference, as the docstrings are written.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autoclass_content = "class"
napoleon_use_ivar = True
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks are run at each build, against the emulator that they start themselves.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
