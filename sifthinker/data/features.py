"""How other software is to read SIF-50K: the schema of its Parquet files with the features that `datasets` shows.

`datasets` reads them from the key `huggingface` of a file's schema. The spelling here is read by its versions from 3 on:
one before 4.0 knows no feature type `List`, and the later ones take the older spelling for the same thing.
`core.tables.SIF` has the later one, which stays: its text is in the key of every stage.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from sifthinker.core.tables import SIF

KEY = "huggingface"


def _for_all(feature: Any) -> Any:
    """A feature without the type `List`: a list of no fixed length is a JSON list of one item."""
    if not isinstance(feature, dict):
        return feature
    if feature.get("_type") != "List":
        return {name: _for_all(value) for name, value in feature.items()}
    inner = _for_all(feature["feature"])
    if "length" in feature:
        return {"feature": inner, "length": feature["length"], "_type": "Sequence"}
    return [inner]


FEATURES: dict[str, Any] = _for_all(json.loads(SIF.metadata[KEY.encode()])["info"]["features"])
PUBLISHED: pa.Schema = SIF.with_metadata({KEY: json.dumps({"info": {"features": FEATURES}})})
