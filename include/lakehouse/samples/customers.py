"""Changes of CRM customers: what the change table holds after each day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta

from lakehouse.samples import things, words
from lakehouse.samples.plan import EPOCH, Options, cycle, index

COLUMNS = (
    *("operation", "changed_at", "customer_id", "full_name", "email", "phone", "street", "city", "postcode"),
    *("country", "birth_date", "segment", "marketing_consent", "registered_at"),
)
_DELETED, _RETURNED = 4, 9
_LATE, _TIES, _TWICE, _BAD = (6, 13), (2, 10), (3, 11), (5, 12)


@dataclass(frozen=True)
class Change:
    """One row of the change table; the fields are COLUMNS. A deletion states the customer only."""

    operation: str
    changed_at: datetime
    customer_id: str
    full_name: str | None = None
    email: str | None = None
    phone: str | None = None
    street: str | None = None
    city: str | None = None
    postcode: str | None = None
    country: str | None = None
    birth_date: str | None = None
    segment: str | None = None
    marketing_consent: bool | None = None
    registered_at: datetime | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """The values in the order of COLUMNS."""
        return tuple(getattr(self, name) for name in COLUMNS)


def is_known(number: int) -> bool:
    """Every tenth customer of the shop has no record in the CRM."""
    return number % 10 != 9


def initial_changes(options: Options) -> Iterator[Change]:
    """The insertions of those who were customers before the first day."""
    for number in filter(is_known, range(things.customer_count(options))):
        yield _state(options, "I", number, -1, _registered_at(options, number))


def day_changes(options: Options, day: date) -> Iterator[Change]:
    """A day's changes in the order in which they are written, which is not always that of ``changed_at``."""
    chance = options.random("crm", day)
    count, place, today = things.customer_count(options), cycle(day), index(day)
    if place in (_DELETED, _RETURNED):
        yield from _leavers(options, day, count, is_back=place == _RETURNED)
    for serial in range(options.scaled(20, 6)):
        number = chance.randrange(count)
        if not is_known(number) or number % 25 == 13:
            continue
        at = _moment(day, chance.randrange(86_400_000))
        if place in _LATE and serial % 4 == 0:
            at -= timedelta(days=chance.randint(2, 6))
        change = _state(options, "U", number, today, at)
        yield change
        if place in _TIES and serial % 3 == 0:
            yield replace(change, segment="vip", phone="+44 20 7946 0000")
        if place in _TWICE and serial % 3 == 0:
            yield change
    yield from _always(options, day)


def _always(options: Options, day: date) -> Iterator[Change]:
    """What must be there whatever chance says, for customers whom nothing else touches."""
    place, number, at = cycle(day), 13, _moment(day, 43_200_000)
    first = _state(options, "U", number, index(day), at)
    if place in _TIES:
        yield replace(first, segment="consumer")
        yield replace(first, segment="wholesale")
    if place in _TWICE:
        yield from (first, first)
    if place in _LATE:
        yield _state(options, "U", number, index(day) - 4, at - timedelta(days=4))
    if place == 7:
        yield replace(first, phone=None, city=None, birth_date=None)
    if place in _BAD and not options.is_clean:
        yield replace(first, email="not an address")
        yield replace(first, birth_date="1980-02-30", changed_at=at + timedelta(hours=1))
        yield replace(first, operation="X", changed_at=at + timedelta(hours=2))
    if index(day) >= 0:
        newcomer = _newcomer(options, day)
        yield replace(newcomer, registered_at=newcomer.changed_at)


def _newcomer(options: Options, day: date) -> Change:
    """Someone new, once a day; a number below the real data's first one, so that it is nobody else's."""
    state = _state(options, "I", 100_000 + index(day), index(day), _moment(day, 36_000_000))
    return replace(state, customer_id=str(1_000 + index(day) % 11_000))


def _leavers(options: Options, day: date, count: int, *, is_back: bool) -> Iterator[Change]:
    """Those who are deleted in each cycle, and inserted again five days later."""
    for number in range(38, count, 50):
        at = _moment(day, 28_800_000 + number)
        deletion = Change("D", at, things.customer_id(number))
        yield replace(_state(options, "I", number, index(day), at), registered_at=at) if is_back else deletion


def _state(options: Options, operation: str, number: int, day_index: int, at: datetime) -> Change:
    """All columns of a customer as they are after a change on a day; each changes now and then."""

    def pick(choices: tuple[str, ...], what: str, days_between: int) -> str:
        epoch = (day_index + number) // days_between
        return choices[options.draw(len(choices), what, number, epoch)]

    given, family = pick(words.GIVEN_NAMES, "given", 10**6), pick(words.FAMILY_NAMES, "family", 40)
    house = 1 + options.draw(200, "house", number, (day_index + number) // 6)
    return Change(
        operation,
        at,
        things.customer_id(number),
        full_name=f"{given} {family}",
        email=f"customer.{number}@{pick(('example.com', 'example.org', 'example.net'), 'mail', 12)}",
        phone=None if number % 12 == 5 else f"+44 20 7946 0{options.draw(1000, 'phone', number, day_index // 9):03d}",
        street=f"{house} {pick(words.STREETS, 'street', 6)}",
        city=pick(words.CITIES, "city", 6),
        postcode=f"{house:03d}-{number % 997:03d}",
        country=things.country(options, number, day_index),
        birth_date=None
        if number % 15 == 8
        else str(date(1945, 1, 1) + timedelta(options.draw(21_000, "born", number))),
        segment=pick(words.SEGMENTS, "segment", 5),
        marketing_consent=pick(("yes", "no"), "consent", 7) == "yes",
        registered_at=_registered_at(options, number),
    )


def _registered_at(options: Options, number: int) -> datetime:
    return _moment(EPOCH - timedelta(days=30 + options.draw(3_000, "registered", number)), number * 1_000 % 86_400_000)


def _moment(day: date, milliseconds: int) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(milliseconds=milliseconds)
