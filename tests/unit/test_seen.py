"""What a person looked at before confirming: the token changes with tables, logs and contract, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from moto import mock_aws
from typer.testing import CliRunner

from lakehouse.cli.main import app
from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.actor import user_name
from lakehouse.core.errors import SettingsError
from lakehouse.core.settings import PROJECT_ROOT, Settings
from lakehouse.ledger import seen
from lakehouse.ledger.decisions import Decision, append_decision
from lakehouse.ledger.log import Batch, LandedFile, append
from lakehouse.ledger.store import ObjectStore

AT = datetime(2024, 4, 1, 12, 30, tzinfo=UTC)


@dataclass
class Place:
    """One source with its logs, and heads that a test moves."""

    contract: Contract
    store: ObjectStore
    heads: dict[str, int] = field(default_factory=dict)

    @property
    def token(self) -> str:
        return seen.seen_token(SimpleNamespace(), self.store, self.contract)  # type: ignore[arg-type]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with mock_aws():
        store = ObjectStore.open(Settings(s3_access_key_id="a", s3_secret_access_key="b", s3_endpoint=""))
        store.client.create_bucket(Bucket=store.bucket)
        found = Place(load_contracts(PROJECT_ROOT / "include" / "contracts")["crm.catalogue"], store)

        def head(catalog: Any, table: Any) -> Any:
            return SimpleNamespace(snapshot_id=found.heads.get(str(table)))

        monkeypatch.setattr(seen, "read_head", head)
        yield found


def land(place: Place) -> None:
    file = LandedFile("a.csv", "objects/crm.catalogue/ab/x", 3, "ab" * 32, "csv", None)
    append(place.store, Batch(place.contract.name, 0, date(2024, 4, 1), "snapshot", (file,), None, None, AT))


def test_the_token_changes_with_everything_that_a_dry_run_depends_on(place: Place) -> None:
    tokens = [place.token]
    assert place.token == tokens[0]
    for table in ("bronze.crm_catalogue", "silver.dim_catalogue_product"):
        place.heads[table] = 7
        tokens.append(place.token)
    land(place)
    tokens.append(place.token)
    append_decision(place.store, Decision(place.contract.name, 0, "hold", (1,), "a reason", "someone", AT))
    tokens.append(place.token)
    place.contract = place.contract.model_copy(update={"description": "Something else."})
    tokens.append(place.token)
    assert len(set(tokens)) == len(tokens) == 6


def test_only_what_was_seen_is_confirmed(place: Place) -> None:
    token = place.token
    seen.require_seen(SimpleNamespace(), place.store, place.contract, token)  # type: ignore[arg-type]
    seen.require_seen(SimpleNamespace(), place.store, place.contract, None)  # type: ignore[arg-type]
    land(place)
    with pytest.raises(SettingsError, match="changed since the dry run") as raised:
        seen.require_seen(SimpleNamespace(), place.store, place.contract, token)  # type: ignore[arg-type]
    assert not raised.value.is_retryable


def test_a_scheduler_says_for_whom_it_decides() -> None:
    assert user_name(Settings(actor="ada (Airflow)")) == "ada (Airflow)"
    assert user_name(Settings()) not in ("", "ada (Airflow)")


@pytest.mark.parametrize("words", [["retail.sales", "--gold-only"], ["--gold-only", "--no-gold"]])
def test_the_marts_alone_are_of_no_source(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Settings(s3_access_key_id="a", postgres_port=1, catalog_password="b")  # type: ignore[arg-type]
    monkeypatch.setattr("lakehouse.cli.run.settings", lambda: complete)
    refused = CliRunner().invoke(app, ["run", *words])
    assert isinstance(refused.exception, SettingsError)
    assert "--gold-only takes no source" in str(refused.exception)
