"""Loading contracts: every problem at once, with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse.contracts.load import check_contracts, contract_files, load_contract, load_contracts
from lakehouse.core.errors import ContractError
from lakehouse.core.settings import PROJECT_ROOT

CONTRACTS = PROJECT_ROOT / "include" / "contracts"

SHOP = """\
format: 1
domain: shop
dataset: orders
owner: shop@lakehouse.example
description: Orders of a shop.
source:
  connector: files
  kind: slice
  pattern: shop/{date}.csv
  columns:
    id: {description: "Number.", classification: public}
    at: {description: "Moment."}
    who: {description: "Buyer.", classification: pii}
    size: {description: "Pieces."}
tables:
  fact_order:
    kind: fact
    description: Orders.
    key: [id]
    partition: [month(at)]
    sort: [id]
    columns:
      id: {type: string, nullable: false, description: "Number."}
      at: {type: timestamp, format: yyyy-MM-dd HH:mm, description: "Moment."}
      size: {type: int, expression: size, description: "Pieces."}
      who: {type: string, classification: pii, description: "Buyer."}
    references:
      - {column: who_key, table: dim_buyer, key: [who]}
    rules:
      - {name: some, check: size > 0, description: "At least one."}
  dim_buyer:
    kind: dimension
    description: Buyers.
    key: [who]
    effective_time: at
    tie_breakers: [{column: id}]
    columns:
      who: {type: string, nullable: false, classification: pii, description: "Buyer."}
      size: {type: int, history: 3, description: "Pieces last bought."}
    order:
      at: {type: timestamp, nullable: false, description: "Moment."}
      id: {type: string, description: "Number."}
"""


def write(folder: Path, text: str, name: str = "shop/orders.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    write(folder, text)
    return [f"{problem.line}: {problem.field}: {problem.message}" for problem in check_contracts(folder)]


def test_the_contract_that_the_others_are_made_of_is_good(tmp_path: Path) -> None:
    assert problems(tmp_path, SHOP) == []


def test_every_contract_of_the_project_is_good() -> None:
    contracts = load_contracts(CONTRACTS)
    assert len(contracts) == len(contract_files(CONTRACTS)) >= 3
    assert list(contracts) == sorted(contracts)
    types = {c.history for contract in contracts.values() for t in contract.tables.values() for c in t.columns.values()}
    assert {0, 1, 2, 3} <= types


# What stands in the good contract, what replaces it, and the problem that must be told, with its line.
WRONG = [
    ("domain: shop", "domain: store", "2: domain: must be 'shop', as the file says"),
    ("dataset: orders", "dataset: order", "3: dataset: must be 'orders', as the file says"),
    ("owner: shop", "owner: ''\nowners: shop", "5: owners: is not a field of contracts"),
    ("kind: slice", "kind: slices", "8: source.kind: Input should be 'slice', 'snapshot' or 'increment', not 'slices'"),
    ("dataset: orders\n", "", "1: dataset: is missing"),
    ("shop/{date}.csv", "shop/x.csv", "9: source.pattern: must have {date} once"),
    ("shop/{date}.csv", "../{date}.csv", "9: source.pattern: must stay below the sources' root"),
    ("shop/{date}.csv", "a/{date}/**/x", "9: source.pattern: knows {date} and * only"),
    ("  pattern: shop/{date}.csv\n", "", "6: source: connector files needs a pattern"),
    ("connector: files", "connector: postgres", "6: source: connector postgres needs the postgres block"),
    ("kind: slice", "kind: slice\n  timezone: Europe/Lodnon", "9: source.timezone: unknown zone 'Europe/Lodnon'; did"),
    ('    size: {description: "Pieces."}', '    Size: {description: "Pieces."}', "did you mean 'Size'?"),
    ("    at: {desc", '    ID: {description: "Twice."}\n    at: {desc', "ID: differs from 'id' in case only"),
    ("    at: {desc", "    _at: {desc", "_at: is no valid name"),
    ("    at: {desc", '    "a;t": {desc', "a;t: is no valid name"),
    ("type: int, expression", "type: integer, expression", "type: unknown type 'integer'"),
    *(
        ("expression: size, desc", f"expression: size, valid: {given}, desc", f"columns.size.valid{problem}")
        for given, problem in (
            ("{}", ": checks nothing"),
            ("{level: warn}", ": checks nothing"),
            ("{min: 1.5}", ".min: '1.5' is no int"),
            ("{max: 3000000000}", ".max: '3000000000' is no int"),
            ("{min: 2, max: 1}", ".max: is less than min: no value would be valid"),
            ("{values: [1, two]}", ".values: 'two' is no int"),
            ("{pattern: x}", ".pattern: is not for int"),
            ("{max_length: 3}", ".max_length: is not for int"),
            ("{least: 1}", ".least: is not a field of contracts"),
        )
    ),
    *(
        (
            'classification: pii, description: "Buyer."}\n    ref',
            f'classification: pii, valid: {given}, description: "Buyer."}}\n    ref',
            f"columns.who.valid{problem}",
        )
        for given, problem in (
            ("{pattern: '('}", ": RLIKE: the pattern '(' is wrong"),
            ("{min_length: 3, max_length: 2}", ".max_length: is less than min_length: no value would be valid"),
            ("{min: a}", ".min: is not for string"),
        )
    ),
    ("    key: [id]", "    key: [idd]", "19: tables.fact_order.key.0: unknown column 'idd'; did you mean 'id'?"),
    ("    key: [id]", "    key: [id, id]", "key.1: 'id' stands twice"),
    ("month(at)", "month(size)", "20: tables.fact_order.partition.0: 'size' is int, not a date or timestamp"),
    ("month(at)", "'bucket(0, id)'", "20: tables.fact_order.partition.0: bucket needs at least one bucket"),
    (
        "month(at)",
        "bucket(4, id)",
        "'bucket(4' is no partition field; write year(x), month(x), day(x), bucket(n, x) in quotes",
    ),
    ("month(at)", "'bucket(4, id)'", None),
    ("month(at)", "day", "unknown column 'day'"),
    ("sort: [id]", "sort: [ids]", "21: tables.fact_order.sort.0: unknown column 'ids'"),
    (
        "expression: size",
        "expression: sise",
        "25: tables.fact_order.columns.size.expression: unknown column 'sise'; did",
    ),
    ("expression: size", "expression: reflect('a')", "reflect is not allowed"),
    ("expression: size", "expression: size > 0", "cannot be compared"),
    ("expression: size", "expression: size IS NULL", "expression: gives boolean, which is no int"),
    ("expression: size", "expression: length(who)", "classification: internal is laxer than its source (pii)"),
    ("expression: size", "expression: size, declassified: because", "nothing is declassified here"),
    ("expression: size", "format: yyyy-MM-dd", "format: is for dates and timestamps, not for int"),
    ("format: yyyy-MM-dd HH:mm", "format: jjjj", "format: is no pattern of Spark"),
    ("format: yyyy-MM-dd HH:mm", "format: HH:mm", "format: needs year (y), month (M) and day (d)"),
    ("expression: size", "history: 2", "history: a fact has no history"),
    ("table: dim_buyer", "table: dim_byer", "28: tables.fact_order.references.0.table: no contract makes a dimension"),
    ("table: dim_buyer", "table: fact_order", "no contract makes a dimension 'fact_order'"),
    ("key: [who]}", "key: [who, id]}", "references.0.key: has 2 columns; the key of dim_buyer has 1"),
    ("key: [who]}", "key: [size]}", "'size' is int, 'who' of dim_buyer is string"),
    ("column: who_key", "column: size", "is the name of a generated column"),
    ("name: some", "name: size_type", "30: tables.fact_order.rules.0.name: 'size_type' is an automatic rule's name"),
    ("check: size > 0", "check: size", "check: a check is true or false"),
    ("check: size > 0", "check: size > now()", "now is not allowed"),
    (
        "    rules:\n",
        '    rules:\n      - {name: some, check: size > 1, description: "Twice."}\n',
        "'some' stands twice",
    ),
    ("    effective_time: at\n", "", "31: tables.dim_buyer: a dimension needs effective_time"),
    ("effective_time: at", "effective_time: size", "effective_time: 'size' is int, not timestamp"),
    ("effective_time: at", "effective_time: when", "effective_time: unknown column 'when'"),
    ("at: {type: timestamp, nullable: false", "at: {type: timestamp", "effective_time: 'at' may be null"),
    ("    tie_breakers: [{column: id}]\n", "", "a dimension fed by a slice or an increment needs tie_breakers"),
    ("[{column: id}]", "[{column: idx}]", "36: tables.dim_buyer.tie_breakers.0.column: unknown column 'idx'"),
    ("who: {type: string, nullable: false", "who: {type: string", "a dimension's key is not null"),
    ("who: {type: string, nullable: false", "who: {type: string, history: 1, nullable: false", "a key has no history"),
    ("history: 3", "history: 4", "history: Input should be 0, 1, 2 or 3, not 4"),
    (
        "    effective_time: at\n",
        "    effective_time: at\n    deletion: {column: idx, values: [D]}\n",
        "unknown column 'idx'",
    ),
    (
        "    effective_time: at\n",
        "    effective_time: at\n    deletion: {column: size, values: [D]}\n",
        "int, not string",
    ),
    ("kind: slice", "kind: snapshot", "tables.dim_buyer.effective_time: 'at': the rows of a full snapshot"),
    ("kind: slice", "kind: increment", None),
    (
        "    order:\n",
        '    order:\n      is_current: {type: string, expression: id, description: "X x."}\n',
        "generated column",
    ),
    ("    order:\n", '    order:\n      size: {type: int, description: "Twice."}\n', "stands under columns too"),
    (
        "    order:\n",
        "    order:\n      x: {type: int, description: none}\n",
        "x.expression: has no expression, and unknown column",
    ),
    ("    kind: fact", "    kind: fact\n    kind: fact", "18: tables.fact_order.kind: stands twice"),
    ("    kind: fact", "    kind: fact\n    per_life: true", "per_life: is for dimensions only"),
    ("    kind: dimension", "    kind: dimension\n    occurrence: true", "occurrence: is for facts only"),
    ("description: Orders.\n", "description: Orders.\n    bad: [\n", "cannot be read"),
    ("description: Orders.\n", "description: &x Orders.\n    bad: *x\n", "aliases (*) are not allowed"),
    ("domain: shop", "domain: !!python/object/apply:os.system [id]", "domain: Input should be a valid string"),
    ("domain: shop", "domain: !!python/name:os.system ''", "cannot be read"),
    ("domain: shop", "? [a]\n: shop", "a key must be a plain text"),
]


@pytest.mark.parametrize(("good", "bad", "told"), WRONG)
def test_problem_is_told_with_its_line(tmp_path: Path, good: str, bad: str, told: str | None) -> None:
    assert good in SHOP
    found = problems(tmp_path, SHOP.replace(good, bad, 1))
    if told is None:
        assert found == []
    else:
        assert any(told in problem for problem in found), found


def test_snapshots_and_feeds(tmp_path: Path) -> None:
    by_unit = SHOP.replace("effective_time: at", "effective_time: _unit")
    assert problems(tmp_path, by_unit) == []
    assert problems(tmp_path, by_unit.replace("kind: slice", "kind: snapshot")) == []
    assert any("a feed says when" in p for p in problems(tmp_path, by_unit.replace("kind: slice", "kind: increment")))
    deleting = SHOP.replace("kind: slice", "kind: snapshot").replace(
        "    effective_time: at\n", "    effective_time: at\n    deletion: {column: id, values: [D]}\n"
    )
    assert any("absence means deleted" in problem for problem in problems(tmp_path, deleting))


def test_all_problems_of_all_files_at_once(tmp_path: Path) -> None:
    write(tmp_path, SHOP.replace("kind: slice", "kind: slices").replace("type: int, exp", "type: integer, exp"))
    write(tmp_path, "a: [", "shop/broken.yaml")
    write(tmp_path, SHOP, "shop/other.yaml")
    write(tmp_path, SHOP, "shop/old.yml")
    with pytest.raises(ContractError) as caught:
        load_contracts(tmp_path)
    message = str(caught.value)
    for words in ("orders.yaml:8: source.kind", "orders.yaml:25: tables", "broken.yaml:", "old.yml:1: is not read"):
        assert words in message
    assert caught.value.exit_code == 3


def test_a_table_belongs_to_one_contract(tmp_path: Path) -> None:
    write(tmp_path, SHOP)
    write(tmp_path, SHOP.replace("dataset: orders", "dataset: others"), "shop/others.yaml")
    found = [str(problem) for problem in check_contracts(tmp_path)]
    assert len(found) == 2
    assert "others.yaml:16: tables.fact_order: silver.fact_order is made by shop.orders already" in found[0]


def test_bronze_tables_do_not_share_a_name(tmp_path: Path) -> None:
    other = SHOP.replace("fact_order:", "fact_a:").replace("dim_buyer", "dim_a")
    write(tmp_path, SHOP.replace("dataset: orders", "dataset: a_b"), "shop/a_b.yaml")
    write(
        tmp_path,
        other.replace("domain: shop", "domain: shop_a").replace("dataset: orders", "dataset: b"),
        "shop_a/b.yaml",
    )
    assert ["bronze.shop_a_b is made by" in str(problem) for problem in check_contracts(tmp_path)] == [True]


def test_nothing_there_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no contract here"):
        load_contracts(tmp_path)


def test_what_is_no_yaml_text(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContractError, match="not UTF-8"):
        load_contract(path)
    path.write_text("just text")
    with pytest.raises(ContractError, match="orders.yaml:1"):
        load_contract(path)
    path.write_text("format: 2020-13-45")
    with pytest.raises(ContractError, match="cannot be read"):
        load_contract(path)


def test_a_dump_reads_back_as_the_same_contract() -> None:
    for contract in load_contracts(CONTRACTS).values():
        again = type(contract).model_validate(contract.dump())
        assert again == contract
        assert [*again.tables] == [*contract.tables]
        assert [[*t.typed] for t in again.tables.values()] == [[*t.typed] for t in contract.tables.values()]
