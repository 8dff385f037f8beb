"""A lake whose servers stand behind proxies, datasets to take in it, and what must hold of them after a fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.looking import Looking
from tests.faults.s3_proxy import S3Proxy
from tests.faults.tcp import Proxy
from tests.sessions import small_session

from lakehouse.contracts.model import Contract
from lakehouse.core import names
from lakehouse.core.names import TableName
from lakehouse.core.settings import Settings
from lakehouse.core.types import DataType
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import run_dataset
from lakehouse.engine.tables import business_types
from lakehouse.landing.land import Request, land
from lakehouse.ledger.accounting import accounts
from lakehouse.ledger.watermark import load_table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

S3_SECONDS, CATALOG_SECONDS = 4, 3
"""How long a server may leave the lake without an answer: as short as a test can wait."""
TEXT = DataType("string")
FIRST_DAY = date(2024, 3, 25)


def dataset(name: str, *, is_history: bool = False) -> Contract:
    """A source of days, taken into facts, of which one of each day is refused; and, if wanted, into versions."""
    text = {"type": "string", "description": "made for a test"}
    moment = {"type": "timestamp", "nullable": False, "description": "made for a test"}
    rules = [{"name": "city_known", "check": "city <> 'nowhere'", "description": "made for a test"}]
    common = {"description": "made for a test", "rules": rules}
    columns = {"id": {**text, "nullable": False}, "city": text}
    fact = {"kind": "fact", "key": ["id", "at"], "columns": {**columns, "at": moment}, **common}
    shop = {"kind": "dimension", "key": ["id"], "effective_time": "at", "tie_breakers": [{"column": "city"}], **common}
    tables = {f"fact_{name}": fact}
    if is_history:
        tables[f"dim_{name}"] = {**shop, "columns": columns, "order": {"at": moment}}
    fields = {column: {"description": "made for a test"} for column in ("id", "at", "city")}
    source = {"connector": "files", "kind": "slice", "format": "jsonl", "pattern": "{date}.jsonl", "columns": fields}
    whole = {"format": 1, "domain": "broken", "dataset": name, "owner": "tests", "description": "made for a test"}
    return Contract.model_validate({**whole, "source": source, "tables": tables})


def write_day(folder: Path, day: int, version: int = 0) -> None:
    """The file of a day: twenty lines, one of which breaks a rule. Each version says something else."""
    unit = FIRST_DAY + timedelta(days=day)
    cities = ["nowhere", *(f"city {(number + day + version) % 5}" for number in range(19))]
    lines = [{"id": f"s{n}", "at": f"{unit} 10:00:{n:02}", "city": city} for n, city in enumerate(cities)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{unit}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class World:
    """One lake: ``through`` sees its servers through the proxies, ``past`` as they are."""

    through: Lake
    past: Lake
    s3: S3Proxy
    catalog: Proxy

    @cached_property
    def looking(self) -> Looking:
        return Looking(self.past.settings)

    def heal(self) -> None:
        """The servers are well again, and no connection is left of the time before."""
        self.s3.drop_connections()
        self.catalog.drop_connections()


def make_world(spark: SparkSession, settings: Settings) -> World:
    """A lake behind new proxies."""
    host, _, port = settings.s3_endpoint.rpartition(":")
    s3 = S3Proxy(host.removeprefix("http://"), int(port))
    catalog = Proxy(settings.postgres_host, settings.postgres_port)
    through = settings.model_copy(
        update={
            "s3_endpoint": f"http://127.0.0.1:{s3.port}",
            "s3_timeout_seconds": S3_SECONDS,
            "postgres_port": catalog.port,
            "catalog_timeout_seconds": CATALOG_SECONDS,
        }
    )
    return World(open_lake(spark, through), open_lake(spark, settings), s3, catalog)


def open_lake(spark: SparkSession, settings: Settings) -> Lake:
    """A session of its own in the JVM that is there."""
    return Lake(small_session(spark, settings), settings)


def land_folder(settings: Settings, contract: Contract, folder: Path) -> None:
    """Land what is new in a folder."""
    land(settings, [contract], Request(root=str(folder))).raise_if_refused()


def run(lake: Lake, contract: Contract) -> None:
    """Everything that is pending, from the landing log to silver."""
    run_dataset(lake, contract, None, lambda _: None)


def content(looking: Looking, contract: Contract) -> Mapping[str, str]:
    """Fingerprints of bronze, of each silver table and of what its quarantine holds."""
    as_landed = dict.fromkeys(contract.source.columns, TEXT)
    found = {"bronze": looking.fingerprint(contract.bronze_table, as_landed)}
    for name, table in contract.tables.items():
        short = name.partition("_")[0]
        keys = {names.KEY: TEXT} | ({names.VERSION_KEY: TEXT} if table.kind == "dimension" else {})
        found[short] = looking.fingerprint(contract.silver_table(name), business_types(table) | keys)
        found[f"{short}, refused"] = looking.fingerprint(TableName("quarantine", name), as_landed)
    return found


def problems(looking: Looking, contract: Contract) -> Iterator[str]:
    """What contradicts that everything that landed was taken, once, and can be read."""
    for account in accounts(looking.catalog, looking.store, contract):
        yield from account.problems
        if account.pending_batches:
            yield f"{account.pending_batches} batches are pending"
    for name, table in contract.tables.items():
        key = names.VERSION_KEY if table.kind == "dimension" else names.KEY
        loaded = load_table(looking.catalog, contract.silver_table(name))
        assert loaded is not None
        keys = loaded.scan(selected_fields=(key,)).to_arrow().column(key).to_pylist()
        yield from (f"{found} is in {name} {times} times" for found, times in Counter(keys).items() if times > 1)
    for name in tables(looking, contract):
        yield from (f"{file} of {name} is missing" for file in looking.missing(looking.references(name)))


def tables(looking: Looking, contract: Contract) -> list[TableName]:
    """The tables of a dataset that are there."""
    made = [contract.bronze_table]
    for name in contract.tables:
        made += [contract.silver_table(name), TableName("quarantine", name)]
    return [name for name in made if load_table(looking.catalog, name)]
