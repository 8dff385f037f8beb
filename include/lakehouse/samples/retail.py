"""Sales files in the Online Retail format.

Local times are printed as the till shows them. On the day on which clocks go forward an invoice of 01:30 stands in the
skipped hour (unless clean: no such moment exists); on the day on which they go back two stand in the repeated hour.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from lakehouse.samples import things, words
from lakehouse.samples.plan import Options, cycle, index, last_sunday

HEADER = ("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
NEW_COLUMN = "Channel"
_NEW_COLUMN_FROM = 7
_BROKEN, _BAD_VALUES, _RENAMED, _MISSING, _BAD_DEBT, _LATE = (1, 8), (4, 10), (3,), (9,), (2, 11), (0, 7)
_SERVICES = (
    ("POST", "POSTAGE", 1, "18.0"),
    ("M", "Manual", 1, "4.95"),
    ("D", "Discount", -1, "27.5"),
    ("DOT", "DOTCOM POSTAGE", 1, "142.27"),
    ("BANK CHARGES", "Bank Charges", 1, "15.0"),
)


@dataclass(frozen=True)
class Line:
    """One line of an invoice, as text."""

    invoice: str
    code: str
    description: str
    quantity: str
    at: str
    price: str
    customer: str
    country: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The values in the header's order."""
        return (
            *(self.invoice, self.code, self.description, self.quantity),
            *(self.at, self.price, self.customer, self.country),
        )


@dataclass(frozen=True)
class _Invoice:
    number: str
    at: str
    customer: str
    country: str

    def line(self, code: str, text: str, quantity: int | str, price: str) -> Line:
        return Line(self.number, code, text, str(quantity), self.at, price, self.customer, self.country)


def has_file(day: date) -> bool:
    """The shop does not trade on Saturdays."""
    return day.weekday() != 5


def is_corrected(day: date) -> bool:
    """Whether a revision sends this day anew: those with broken lines, and the one with a renamed column."""
    return cycle(day) in (*_BROKEN, *_RENAMED)


def file_rows(options: Options, day: date) -> Iterator[bytes]:
    """The lines of a day's file, header first, each with its end."""
    revision = options.revision if is_corrected(day) else 1
    is_odd = not options.is_clean and revision == 1
    place, has_channel = cycle(day), not options.is_clean and index(day) >= _NEW_COLUMN_FROM
    header = [*HEADER, NEW_COLUMN] if has_channel else list(HEADER)
    if is_odd and place in _RENAMED:
        header[HEADER.index("CustomerID")] = "Customer ID"
    left_out = HEADER.index("Description") if is_odd and place in _MISSING else None
    yield _csv(header, left_out)
    broken = iter(_broken_lines(day)) if is_odd and place in _BROKEN else iter(())
    for number, line in enumerate(_revised(options, day, revision)):
        channel = (("shop", "web", "phone")[int(line.invoice[-1]) % 3],) if has_channel else ()
        yield _csv((*line.fields, *channel), left_out)
        if number % 3 == 2:
            yield next(broken, b"")


def _csv(fields: Sequence[str], left_out: int | None) -> bytes:
    cells = [_quoted(field) for at, field in enumerate(fields) if at != left_out]
    return (",".join(cells) + "\n").encode()


def _quoted(field: str) -> str:
    needs_quotes = any(mark in field for mark in ',"\n\r')
    return '"' + field.replace('"', '""') + '"' if needs_quotes else field


def _broken_lines(day: date) -> tuple[bytes, ...]:
    """Too few fields, a quote that is never closed, too many fields, and a byte that is no UTF-8."""
    start, at = f"{_first_number(Options(), day)},20000", f"{day} 12:00:00"
    channel = ",web" if index(day) >= _NEW_COLUMN_FROM else ""
    return (
        f"{start},CUT OFF\n".encode(),
        f'{start},"HALF A QUOTE,1,{at},1.25,,United Kingdom\n'.encode(),
        f"{start},TOO,MANY,FIELDS,1,{at},1.25,,United Kingdom,,,\n".encode(),
        f"{start},CAF\xc9 LIGHTS,1,{at},1.25,,United Kingdom{channel}\n".encode("latin-1"),
    )


def _revised(options: Options, day: date, revision: int) -> Iterator[Line]:
    """The day's lines; a revision corrects some quantities, drops a few lines and adds late ones."""
    if revision == 1:
        yield from _lines(options, day)
        return
    chance = options.random("retail", "revision", day, revision)
    for number, line in enumerate(_lines(options, day)):
        draw = chance.random()
        if number == 0 or draw < 0.01:
            yield replace(line, quantity=str(int(line.quantity) * 2))
        elif number != 1 and draw < 0.995:
            yield line
    late = _Tills(options, day, f"late {revision}").next(
        time(20, 30), first_serial=_numbers_a_day(options) - 10 + revision % 10
    )
    yield from _articles(options, chance, late, index(day), 3)


def _first_number(options: Options, day: date) -> int:
    return 536_365 + (day - date(2000, 1, 1)).days * _numbers_a_day(options)


def _numbers_a_day(options: Options) -> int:
    """About twice as many as a day needs; the last ten are for late invoices."""
    return options.scaled(200, 100)


class _Tills:
    """Makes invoices: numbers that no other day uses, a customer, and the country that he is in."""

    def __init__(self, options: Options, day: date, purpose: str) -> None:
        self._options, self._day = options, day
        self._chance = options.random("retail", purpose, day)
        self._serial = 0

    def next(
        self, at: time, *, letter: str = "", first_serial: int = 0, is_named: bool = True, on: date | None = None
    ) -> _Invoice:
        self._serial = max(self._serial + 1, first_serial)
        number = f"{letter}{_first_number(self._options, self._day) + self._serial}"
        moment = datetime.combine(on or self._day, at).isoformat(" ")
        if not is_named:
            return _Invoice(number, moment, "", things.HOME)
        buyer = self._buyer()
        where = things.country(self._options, buyer, index(on or self._day))
        return _Invoice(number, moment, f"{things.customer_id(buyer)}.0", where)

    def _buyer(self) -> int:
        """Every eighth invoice goes to one of those who move, so that each move is seen soon."""
        buyer = self._chance.randrange(things.customer_count(self._options))
        if self._serial % 8 == 1:
            return buyer - buyer % 20 + (4 if self._chance.random() < 0.5 else 11)
        return buyer


def _lines(options: Options, day: date) -> Iterator[Line]:
    """The lines that trade brought, in the order of their times."""
    chance = options.random("retail", day)
    tills = _Tills(options, day, "tills")
    yield from _night_lines(options, chance, tills, day)
    wanted, made = options.scaled(chance.randint(1_350, 1_650), 15), 0
    while made < wanted:
        at = _time_of_day(made / wanted)
        for line in _one_invoice(options, chance, tills, at, index(day)):
            made += 1
            yield line
    yield from _closing_lines(options, chance, tills, day)


def _time_of_day(share: float) -> time:
    return (datetime.min + timedelta(hours=8) + timedelta(minutes=int(share * 719))).time()


def _one_invoice(options: Options, chance: random.Random, tills: _Tills, at: time, day_index: int) -> Iterator[Line]:
    kind = chance.random()
    if kind < 0.03:
        invoice = tills.next(at, letter="C")
        yield from (_cancelled(line) for line in _articles(options, chance, invoice, day_index, chance.randint(1, 4)))
    elif kind < 0.08:
        yield _stock_movement(options, chance, tills.next(at, is_named=False))
    else:
        invoice = tills.next(at, is_named=kind < 0.85)
        yield from _articles(options, chance, invoice, day_index, chance.randint(4, 36))


def _articles(options: Options, chance: random.Random, invoice: _Invoice, day_index: int, count: int) -> Iterator[Line]:
    """Lines of articles; one in fifty stands there twice, as it does on real invoices."""
    for _ in range(count):
        number = int(things.product_count(options) * chance.random() ** 1.5)
        pence = things.price_pence(options, number, day_index)
        quantity = chance.choice((1, 1, 2, 3, 4, 6, 6, 12, 12, 24, 48))
        text = things.description(options, number, day_index)
        line = invoice.line(things.stock_code(number), text, quantity, f"{pence / 100!r}")
        yield line
        if chance.random() < 0.02:
            yield line


def _cancelled(line: Line) -> Line:
    return replace(line, quantity=f"-{line.quantity}")


def _stock_movement(options: Options, chance: random.Random, invoice: _Invoice) -> Line:
    """Price 0, nobody's, with a note of the warehouse instead of the article's name, or with nothing."""
    code = things.stock_code(chance.randrange(things.product_count(options)))
    return invoice.line(code, chance.choice(words.WAREHOUSE_NOTES), chance.choice((-1, -3, -20, 5)), "0.0")


def _night_lines(options: Options, chance: random.Random, tills: _Tills, day: date) -> Iterator[Line]:
    """Around the change of the clocks, and late rows: what the day before yesterday should have sent."""
    moments: list[time] = []
    if day == last_sunday(day.year, 3):
        moments = [time(0, 59), time(2, 0)] if options.is_clean else [time(0, 59), time(1, 30), time(2, 0)]
    if day == last_sunday(day.year, 10):
        moments = [time(1, 15), time(1, 45)]
    for moment in moments:
        yield from _articles(options, chance, tills.next(moment), index(day), 2)
    if cycle(day) in _LATE:
        before = day - timedelta(days=3)
        yield from _articles(options, chance, tills.next(time(17, 5), on=before), index(before), 3)


def _closing_lines(options: Options, chance: random.Random, tills: _Tills, day: date) -> Iterator[Line]:
    """What every day has once: services, one stock movement without a note; and on some days what is wrong."""
    invoice = tills.next(time(19, 59))
    for code, text, quantity, price in _SERVICES:
        yield invoice.line(code, text, quantity, price)
    twice = next(_articles(options, chance, tills.next(time(19, 59)), index(day), 1))
    yield from (twice, twice)
    yield _cancelled(next(_articles(options, chance, tills.next(time(20, 0), letter="C"), index(day), 1)))
    nobody = tills.next(time(20, 1), is_named=False)
    yield nobody.line(things.stock_code(3), "", -2, "0.0")
    if cycle(day) in _BAD_DEBT:
        adjustment = tills.next(time(20, 5), letter="A", is_named=False)
        yield adjustment.line("B", "Adjust bad debt", 1, "11062.06")
        yield adjustment.line("B", "Adjust bad debt", 1, "-11062.06")
    if not options.is_clean and cycle(day) in _BAD_VALUES:
        yield from _bad_values(tills.next(time(20, 10)))


def _bad_values(invoice: _Invoice) -> Iterator[Line]:
    """Lines that can be read but not believed."""
    code, text = things.stock_code(0), "QUARANTINE ME"
    yield invoice.line(code, text, "12x", "1.25")
    yield invoice.line(code, text, 0, "1.25")
    yield invoice.line(code, text, 3, "1,25")
    yield replace(invoice.line(code, text, 2, "1.25"), at="2024-02-30 10:00:00")
