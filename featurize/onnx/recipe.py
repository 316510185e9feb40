"""The recipe that a model file names in its metadata: read with care, since anybody may have made the file.

Guarantee: a recipe that comes out of here can be computed: its numbers are of the right type and within bounds, so that
no file can ask for a mel of a billion bands. A recipe that cannot be read is one ModelError on one line.
"""

from __future__ import annotations

from collections.abc import Mapping

from student_clap.config.formats import onnx_metadata
from student_clap.config.formats.json_text import parse_json
from student_clap.config.runtime.text import reason
from student_clap.featurize.onnx.graph import ModelError
from student_clap.store import Recipe

METADATA_PREFIX = onnx_metadata.PREFIX  # of every entry that this package writes
RECIPE_KEY = METADATA_PREFIX + "recipe"


def declared_recipe(metadata: Mapping[str, str], where: str) -> Recipe | None:
    """The recipe in a file's metadata; None where there is none.

    Args:
        metadata: of the file.
        where: the file's name, for the error.

    Raises:
        ModelError: it is damaged, of a version that this one does not know, or asks for what cannot be computed.
    """
    text = metadata.get(RECIPE_KEY)
    if text is None:
        return None
    try:
        return Recipe.from_attributes(dict(parse_json(text)))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{where}: its metadata {RECIPE_KEY} cannot be read: {reason(error)}") from None
