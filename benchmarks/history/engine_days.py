"""The real days as this engine sees them: landed in any order, and both dimensions in one run.

python engine_days.py FOLDER land DATA ORDER.json     land the days, one after another, in this order
python engine_days.py FOLDER run                      bronze and both dimensions, everything pending
python engine_days.py FOLDER each DATA ORDER.json SECONDS
                                                      land a day, run, and so on, in one process; goes on where the
                                                      log ends, and stops after so many seconds; prints days done
python engine_days.py FOLDER export                   both histories as Parquet
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import date
from pathlib import Path

from place import Place

from lakehouse.contracts.load import load_contracts
from lakehouse.contracts.model import Contract
from lakehouse.core.settings import Settings, load_settings
from lakehouse.landing.land import Request, land
from lakehouse.ledger.log import read_log
from lakehouse.ledger.store import ObjectStore

DIMENSIONS = ("dim_customer", "dim_product")


def retail(settings: Settings) -> Contract:
    """The contract of the retail data with its dimensions alone."""
    found = load_contracts(settings.contracts)["retail.sales"]
    return found.model_copy(update={"tables": {name: found.tables[name] for name in DIMENSIONS}})


def land_day(settings: Settings, contract: Contract, data: Path, name: str) -> None:
    """Land the file of one day."""
    day = date.fromisoformat(name.removesuffix(".csv"))
    land(settings, [contract], Request(start=day, end=day, root=str(data))).raise_if_refused()


def run(settings: Settings) -> None:
    """One run of everything that is pending, in a session of its own."""
    from lakehouse.engine.run import run_everything

    contract = retail(settings)
    result = run_everything(settings, [contract], [contract.name], None, lambda _: None)
    for error in result.errors:
        raise error


def each(settings: Settings, data: Path, order: list[str], seconds: float) -> dict[str, float]:
    """Land and run day by day until the time is over."""
    from lakehouse.engine.publish import Lake
    from lakehouse.engine.run import run_dataset
    from lakehouse.engine.session import session

    contract, started = retail(settings), time.perf_counter()
    done = first = len(read_log(ObjectStore.open(settings), contract.name))
    with session(settings, "day by day") as spark:
        lake = Lake(spark, settings)
        # A run that was cut short has left its last day pending.
        run_dataset(lake, contract, None, lambda _: None)
        for name in order[first:]:
            if time.perf_counter() - started > seconds:
                break
            land_day(settings, contract, data, name)
            run_dataset(lake, contract, None, lambda _: None)
            done += 1
    return {"days": done, "of": len(order), "new": done - first, "wall_seconds": time.perf_counter() - started}


def export(settings: Settings, folder: Path) -> None:
    """Both histories: business columns, as this engine names them."""
    import pyarrow.parquet as pq

    from lakehouse.ledger.watermark import open_catalog

    contract = retail(settings)
    catalog = open_catalog(settings)
    for name in DIMENSIONS:
        table = catalog.load_table(("silver", name))
        columns = [*contract.tables[name].columns, "effective_from", "effective_to", "is_current"]
        pq.write_table(table.scan(selected_fields=tuple(columns)).to_arrow(), folder / f"{name}.parquet")


def main() -> None:
    folder, command, *arguments = sys.argv[1:]
    place = Place(Path(folder))
    settings = load_settings(place.home)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer: object = {}
    if command == "land":
        for name in json.loads(Path(arguments[1]).read_text()):
            land_day(settings, retail(settings), Path(arguments[0]), name)
    elif command == "run":
        run(settings)
    elif command == "each":
        order = json.loads(Path(arguments[1]).read_text())
        answer = each(settings, Path(arguments[0]), order, float(arguments[2]))
    else:
        export(settings, place.store("engine"))
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
