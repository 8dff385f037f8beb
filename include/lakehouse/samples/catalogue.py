"""The product catalogue: a full snapshot every day, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta

from lakehouse.samples import things, words
from lakehouse.samples.plan import EPOCH, Options, cycle, index

_BAD_PRICES = {6: ("-1.00", '"n/a"'), 10: ('"1,99"', "-0.01")}
_BROKEN, _NOT_STATED, _TWICE = 11, 9, 4
_NEW_KEY_FROM = 10


def suffix(day: date) -> str:
    """How the day's file is compressed: the source is not of one mind."""
    return (".zst", ".gz", "")[index(day) % 3]


def is_corrected(day: date) -> bool:
    """Whether a revision sends this day anew: those with bad prices or broken lines."""
    return cycle(day) in (*_BAD_PRICES, _BROKEN)


def file_rows(options: Options, day: date) -> Iterator[bytes]:
    """The lines of a day's snapshot."""
    is_odd = not options.is_clean and (options.revision == 1 or not is_corrected(day))
    bad_prices = list(_BAD_PRICES.get(cycle(day), ())) if is_odd else []
    for number in range(things.catalogue_count(options)):
        if not is_listed(number, index(day)):
            continue
        bad = bad_prices.pop() if bad_prices and number >= 20 else None
        line = _line(options, number, day, bad, is_odd)
        yield line
        if is_odd and cycle(day) == _TWICE and number == 12:
            yield line
        if is_odd and cycle(day) == _BROKEN and number == 30:
            yield b'{"sku": "20000", "name": "CUT O\n'


def is_listed(number: int, day_index: int) -> bool:
    """Whether an article is in the snapshot: some come later, some go for good, some go and return."""
    place = number % 40
    if place == 7:
        return day_index >= 1 + number // 40 % 9
    if place == 9:
        return day_index < 6 + number // 40 % 7
    return place != 5 or (day_index + number // 40) // 3 % 4 != 2


def _line(options: Options, number: int, day: date, bad_price: str | None, is_odd: bool) -> bytes:
    values: dict[str, str] = {"sku": _text(things.stock_code(number)), "name": _text(_name(options, number, day))}
    values["category"] = _text(_category(options, number, index(day)))
    if not (is_odd and cycle(day) == _NOT_STATED and number % 30 == 4):
        values["supplier"] = _text(_supplier(options, number, index(day)))
    values["list_price"] = bad_price or _price(options, number, day)
    values["is_active"] = "false" if (number + index(day)) % 45 == 0 else "true"
    values["launched_on"] = _text(_launched_on(options, number, index(day)))
    if not options.is_clean and index(day) >= _NEW_KEY_FROM:
        values["weight_grams"] = str(50 + number % 900)
    return ("{" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}\n").encode()


def _text(value: str | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _name(options: Options, number: int, day: date) -> str:
    name = things.product_name(options, number).title()
    return f"{name} (Eco)" if number % 17 == 3 and index(day) >= 6 else name


def _category(options: Options, number: int, day_index: int) -> str | None:
    if number % 47 == 1:
        return None
    moved = number % 29 == 3 and day_index >= 4
    return words.CATEGORIES[(options.draw(len(words.CATEGORIES), "category", number) + moved) % len(words.CATEGORIES)]


def _supplier(options: Options, number: int, day_index: int) -> str:
    changes = day_index // 5 if number % 23 == 11 else 0
    return words.SUPPLIERS[(options.draw(len(words.SUPPLIERS), "supplier", number) + changes) % len(words.SUPPLIERS)]


def _price(options: Options, number: int, day: date) -> str:
    pence = things.price_pence(options, number, index(day))
    return f"{pence // 100}.{pence % 100:02d}"


def _launched_on(options: Options, number: int, day_index: int) -> str | None:
    """The day of the launch; for some it is stated only later, and once it was stated wrong at first."""
    if number % 31 == 6 and day_index < 5:
        return None
    shift = 1 if number == 40 and day_index < 3 else 0
    return str(EPOCH - timedelta(days=100 + options.draw(3_000, "launch", number) + shift))
