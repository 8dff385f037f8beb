"""The JSON Schema of contracts, for editors."""

from __future__ import annotations

import json

from lakehouse.contracts.model import Contract

SCHEMA_NAME = "contract.schema.json"


def schema_text() -> str:
    """The schema as it is kept in the repository."""
    schema = Contract.model_json_schema()
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Contract of a dataset"}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
