"""The products and customers that the samples speak of: pure functions of the seed, a number and the day's index."""

from __future__ import annotations

from lakehouse.samples import words
from lakehouse.samples.plan import Options

FIRST_CUSTOMER = 12346
LAST_CUSTOMER = 18287
HOME = "United Kingdom"


def product_count(options: Options) -> int:
    """How many articles are sold."""
    return min(options.scaled(500, 60), 60_000)


def catalogue_count(options: Options) -> int:
    """How many of them, the first ones, are known to the CRM's catalogue."""
    return min(options.scaled(300, 60), product_count(options))


def stock_code(number: int) -> str:
    """The code of an article: five digits, some with a letter behind."""
    return f"{20_000 + number * 37 % 70_000}{'ABCDEFG'[number % 7] if number % 5 == 2 else ''}"


def product_name(options: Options, number: int) -> str:
    """The name of an article; some have quotes, commas, line breaks or other alphabets."""
    if number % 20 == 7:
        return words.ODD_TEXTS[number // 20 % len(words.ODD_TEXTS)]
    colour = words.COLOURS[options.draw(len(words.COLOURS), "colour", number)]
    motif = words.MOTIFS[options.draw(len(words.MOTIFS), "motif", number)]
    return f"{colour} {motif} {words.THINGS[options.draw(len(words.THINGS), 'thing', number)]}"


def description(options: Options, number: int, index: int) -> str:
    """The text that invoices print for an article; every tenth article's text changes after 3 to 12 days."""
    name = product_name(options, number)
    return f"{name} NEW DESIGN" if number % 10 == 3 and index >= 3 + number // 10 % 10 else name


def price_pence(options: Options, number: int, index: int) -> int:
    """The price of an article; it moves every week."""
    base = 25 + options.draw(1_500, "price", number)
    return base + base * ((index // 7 + number) % 4) // 20


def customer_count(options: Options) -> int:
    """How many customers buy; their numbers are those of the real data."""
    return min(options.scaled(400, 40), LAST_CUSTOMER - FIRST_CUSTOMER + 1)


def customer_id(number: int) -> str:
    """A customer's number, as the CRM writes it."""
    return str(FIRST_CUSTOMER + number)


def is_mover(number: int) -> bool:
    """Whether the customer's country changes."""
    return number % 20 in (4, 11)


def country(options: Options, number: int, index: int) -> str:
    """The country of a customer on a day: some move for good after 2 to 9 days, some go and come back again."""
    draw = options.draw(10, "country", number)
    home = HOME if draw < 7 else words.COUNTRIES[number % len(words.COUNTRIES)]
    away = words.COUNTRIES[(number + 1 + draw) % len(words.COUNTRIES)]
    if away == home:
        away = HOME
    if number % 20 == 4:
        return away if index >= 2 + number // 20 % 8 else home
    if number % 20 == 11:
        return away if (index + number // 20) // 3 % 2 else home
    return home
