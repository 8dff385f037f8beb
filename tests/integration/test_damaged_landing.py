"""A landed object that is no longer what was landed: said in words, and nothing is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse.contracts.load import load_contracts
from lakehouse.core.errors import IntegrityError
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import run_bronze
from lakehouse.landing.land import Request, land
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore
from lakehouse.ledger.watermark import read_head

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
LINE = "1,22139,TEA SET,1,2024-03-25 09:00:00,4.25,12370.0,Cyprus\n"


@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_a_damaged_object_is_named_and_nothing_is_published(lake: Lake, tmp_path: Path, damage: str) -> None:
    contract = load_contracts(lake.settings.contracts)["retail.sales"]
    (tmp_path / "2024-03-25.csv").write_text(HEADER + LINE)
    land(lake.settings, [contract], Request(root=str(tmp_path))).raise_if_refused()
    store = ObjectStore.open(lake.settings)
    key = read_log(store, contract.name)[0].files[0].key
    if damage == "changed":
        store.client.put_object(Bucket=store.bucket, Key=key, Body=(HEADER + LINE.replace("4.25", "9.25")).encode())
    else:
        store.client.delete_object(Bucket=store.bucket, Key=key)
    with pytest.raises(IntegrityError, match=r"2024-03-25\.csv of batch 1") as raised:
        run_bronze(lake, contract)
    assert "Traceback" not in str(raised.value) and "discard the batch" in str(raised.value)
    stamp = read_head(lake.catalog, contract.bronze_table).stamp
    assert stamp is not None and stamp.is_first
