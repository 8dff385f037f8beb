"""The whole way of one day: a landed Parquet file through bronze, casts and checks into the dimension.

python whole_way.py FOLDER land KIND DAY      land the file of day 1 or 2 (as a source has it)
python whole_way.py FOLDER run KIND           bronze and silver of everything pending: what is measured
python whole_way.py FOLDER export KIND        the history as Parquet, to be compared
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from place import Place
from typed_files import CONTRACTS, contract, table_of

from lakehouse.core.settings import load_settings
from lakehouse.engine.publish import Lake
from lakehouse.engine.run import run_everything
from lakehouse.engine.session import session
from lakehouse.landing.land import Request, land

DATES = {1: "2026-01-01", 2: "2026-01-02"}


def place_source(place: Place, kind: str, day: int) -> Path:
    """Put a day's file where a source would have it; returns the sources' root."""
    root = place.folder / "sources"
    path = root / "bench" / kind / f"{DATES[day]}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.link(place.data("base" if day == 1 else kind), path)
    return root


def main() -> None:
    folder, command, kind, *rest = sys.argv[1:]
    place = Place(Path(folder))
    settings = load_settings(place.home).model_copy(update={"contracts": CONTRACTS})
    found = contract(kind)
    if command == "land":
        land(settings, [found], Request(root=str(place_source(place, kind, int(rest[0]))))).raise_if_refused()
    elif command == "run":
        result = run_everything(settings, [found], [found.name], None, lambda _: None)
        for error in result.errors:
            raise error
        print(json.dumps({str(report.table): report.seconds for report in result.reports}))
    else:
        with session(settings, "export") as spark:
            rows = Lake(spark, settings).table(found.silver_table(table_of(found))).drop("_key", "_version_key")
            rows.write.mode("overwrite").parquet(str(place.export("whole-way", kind)))


if __name__ == "__main__":
    main()
