"""One self-contained HTML page: a template, a style sheet and a script that lie next to one another.

No network and no fonts of its own. What is filled in comes from outside: all of it is escaped (jinja2's autoescape;
drawings by markupsafe), and the page's content security policy lets nothing load and no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_HEAD = """\
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'sha256-{}'; base-uri 'none'; form-action 'none'">
"""


def render_page(package: str, name: str, filters: dict[str, Callable[..., str]], **values: Any) -> str:
    """The page.

    Args:
        package: holds ``templates/NAME.html``, ``NAME.css`` and ``NAME.js``. The template puts `head` into its head,
            `style` into a style element and `script` into a script element.
        name: of the three files.
        filters: functions that the template may call, by their names there.
        values: what the template shows. Text is escaped, Markup is not.
    """

    def part(suffix: str) -> str:
        return files(package).joinpath("templates", f"{name}.{suffix}").read_text(encoding="utf-8")

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters)
    script = part("js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.from_string(part("html")).render(
        head=Markup(_HEAD.format(digest)),  # noqa: S704  nothing of it comes from outside
        style=Markup(part("css")),  # noqa: S704  our own file
        script=Markup(script),  # noqa: S704  our own file
        **values,
    )
