"""Avro files, changed in some fields: all other bytes of a record are copied as they stand.

Manifests of any format version keep what no model of theirs knows: only the fields that are asked for are decoded, and
everything else goes from one file to the other without being looked into.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAGIC = b"Obj\x01"
_SYNC = 16
_FIXED = {"null": 0, "boolean": 1, "float": 4, "double": 8}

Decode = Callable[[bytes, int], tuple[Any, int]]
Encode = Callable[[bytearray, Any], None]
Skip = Callable[[bytes, int], int]
Wanted = Mapping[str, Any]
"""Names of a record's fields: of a nested record the same again, True for a whole value."""


@dataclass(frozen=True)
class AvroRecords:
    """A file's header and records. A record has its fields by name; those that were not wanted are raw bytes."""

    meta: Mapping[str, bytes]
    sync: bytes
    records: list[dict[str, Any]]


def read_records(data: bytes, wanted: Wanted) -> AvroRecords:
    """The records of a file. Raises :class:`ValueError` where it is no whole Avro file."""
    try:
        return _read(data, wanted)
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"it is no whole Avro file ({type(error).__name__}: {error})") from None
    except Exception as error:  # what a codec says of damaged bytes has no common class
        raise ValueError(f"it is no whole Avro file ({error})") from None


def write_records(file: AvroRecords, wanted: Wanted) -> bytes:
    """The file again, with its records as they are now: the same records give the same bytes."""
    _, encode = _codec(json.loads(file.meta["avro.schema"]), wanted, {})
    block = bytearray()
    for record in file.records:
        encode(block, record)
    out = bytearray(MAGIC)
    _put_long(out, len(file.meta))
    for key, value in file.meta.items():
        _put_bytes(out, key.encode())
        _put_bytes(out, value)
    out.append(0)
    out += file.sync
    if file.records:
        _put_long(out, len(file.records))
        _put_bytes(out, _compress(file.meta, bytes(block)))
        out += file.sync
    return bytes(out)


def _read(data: bytes, wanted: Wanted) -> AvroRecords:
    if data[:4] != MAGIC:
        raise ValueError("it does not begin as an Avro file does")
    meta, position = _header(data, 4)
    sync, position = data[position : position + _SYNC], position + _SYNC
    decode, _ = _codec(json.loads(meta["avro.schema"]), wanted, {})
    records: list[dict[str, Any]] = []
    while position < len(data):
        count, position = _long(data, position)
        body, position = _bytes(data, position)
        if data[position : position + _SYNC] != sync:
            raise ValueError("a block does not end where it should")
        position += _SYNC
        block, at = _decompress(meta, body), 0
        for _ in range(count):
            record, at = decode(block, at)
            records.append(record)
        if at != len(block):
            raise ValueError("a block has more bytes than its records")
    return AvroRecords(meta, sync, records)


def _header(data: bytes, position: int) -> tuple[dict[str, bytes], int]:
    meta: dict[str, bytes] = {}
    while True:
        count, position = _long(data, position)
        if count == 0:
            return meta, position
        if count < 0:
            _, position = _long(data, position)
        for _ in range(abs(count)):
            key, position = _bytes(data, position)
            meta[key.decode()], position = _bytes(data, position)


def _codec_of(meta: Mapping[str, bytes]) -> Any:
    from pyiceberg.avro.codecs import KNOWN_CODECS

    name = meta.get("avro.codec", b"null").decode()
    if name not in KNOWN_CODECS:
        raise ValueError(f"it is compressed with {name}, which is not known here")
    return KNOWN_CODECS[name]  # type: ignore[index]


def _decompress(meta: Mapping[str, bytes], body: bytes) -> bytes:
    codec = _codec_of(meta)
    return bytes(codec.decompress(body)) if codec else body


def _compress(meta: Mapping[str, bytes], body: bytes) -> bytes:
    codec = _codec_of(meta)
    return bytes(codec.compress(body)[0]) if codec else body


def _long(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        shift += 7
    return (value >> 1) ^ -(value & 1), position + 1


def _put_long(out: bytearray, value: int) -> None:
    value = (value << 1) ^ (value >> 63)
    while value & ~0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)


def _bytes(data: bytes, position: int) -> tuple[bytes, int]:
    size, start = _long(data, position)
    if size < 0 or start + size > len(data):
        raise ValueError("it ends too early")
    return data[start : start + size], start + size


def _put_bytes(out: bytearray, value: bytes) -> None:
    _put_long(out, len(value))
    out += value


def _string(data: bytes, position: int) -> tuple[str, int]:
    value, position = _bytes(data, position)
    return value.decode(), position


def _put_string(out: bytearray, value: str) -> None:
    _put_bytes(out, value.encode())


def _resolved(schema: Any, named: dict[str, Any]) -> Any:
    """A schema in place of a name that stands for it; remembers the names that it gives."""
    if isinstance(schema, str):
        return named.get(schema, schema)
    if isinstance(schema, dict) and schema.get("name"):
        named[schema["name"]] = schema
        if space := schema.get("namespace"):
            named[f"{space}.{schema['name']}"] = schema
    return schema


def _kind(schema: Any) -> str:
    if isinstance(schema, list):
        return "union"
    found = schema["type"] if isinstance(schema, dict) else schema
    return _kind(found) if isinstance(found, dict) else str(found)


def _skipper(schema: Any, named: dict[str, Any]) -> Skip:
    schema = _resolved(schema, named)
    kind = _kind(schema)
    if kind in ("int", "long", "enum"):
        return _skip_long
    if kind in ("string", "bytes"):
        return lambda data, position: _bytes(data, position)[1]
    if kind == "fixed" or kind in _FIXED:
        size = schema["size"] if kind == "fixed" else _FIXED[kind]
        return lambda data, position: position + size
    if kind == "union":
        return _union_skipper([_skipper(branch, named) for branch in schema])
    if kind == "record":
        return _record_skipper([_skipper(field["type"], named) for field in schema["fields"]])
    if kind == "array":
        return _blocks_skipper(_skipper(schema["items"], named))
    if kind == "map":
        value = _skipper(schema["values"], named)
        return _blocks_skipper(lambda data, position: value(data, _bytes(data, position)[1]))
    raise ValueError(f"its schema has a type {kind!r}")


def _skip_long(data: bytes, position: int) -> int:
    while data[position] & 0x80:
        position += 1
    return position + 1


def _union_skipper(branches: list[Skip]) -> Skip:
    def skip(data: bytes, position: int) -> int:
        index, position = _long(data, position)
        return branches[index](data, position)

    return skip


def _record_skipper(fields: list[Skip]) -> Skip:
    def skip(data: bytes, position: int) -> int:
        for field in fields:
            position = field(data, position)
        return position

    return skip


def _blocks_skipper(item: Skip) -> Skip:
    def skip(data: bytes, position: int) -> int:
        while True:
            count, position = _long(data, position)
            if count == 0:
                return position
            if count < 0:
                size, position = _long(data, position)
                position += size
                continue
            for _ in range(count):
                position = item(data, position)

    return skip


def _codec(schema: Any, wanted: Any, named: dict[str, Any]) -> tuple[Decode, Encode]:
    """How a value is read and written. ``wanted``: False for raw bytes, True for all of it, or names of fields."""
    schema = _resolved(schema, named)
    kind = _kind(schema)
    if wanted is False:
        return _raw(_skipper(schema, named))
    if kind in ("int", "long"):
        return _long, _put_long
    if kind == "string":
        return _string, _put_string
    if kind == "bytes":
        return _bytes, _put_bytes
    if kind == "union":
        return _optional(schema, wanted, named)
    if kind == "record":
        return _record(schema, wanted, named)
    if kind == "array":
        return _array(*_codec(schema["items"], wanted, named))
    return _raw(_skipper(schema, named))


def _raw(skip: Skip) -> tuple[Decode, Encode]:
    def decode(data: bytes, position: int) -> tuple[bytes, int]:
        end = skip(data, position)
        if end > len(data):
            raise ValueError("it ends too early")
        return data[position:end], end

    def encode(out: bytearray, value: bytes) -> None:
        out += value

    return decode, encode


def _optional(schema: list[Any], wanted: Any, named: dict[str, Any]) -> tuple[Decode, Encode]:
    if len(schema) != 2 or "null" not in schema:
        raise ValueError("its schema has a union that is no optional value")
    null = schema.index("null")
    inner_decode, inner_encode = _codec(schema[1 - null], wanted, named)

    def decode(data: bytes, position: int) -> tuple[Any, int]:
        index, position = _long(data, position)
        return (None, position) if index == null else inner_decode(data, position)

    def encode(out: bytearray, value: Any) -> None:
        _put_long(out, null if value is None else 1 - null)
        if value is not None:
            inner_encode(out, value)

    return decode, encode


def _record(schema: Any, wanted: Any, named: dict[str, Any]) -> tuple[Decode, Encode]:
    fields: list[tuple[str, Decode, Encode]] = []
    for field in schema["fields"]:
        part = True if wanted is True else wanted.get(field["name"], False)
        fields.append((field["name"], *_codec(field["type"], part, named)))

    def decode(data: bytes, position: int) -> tuple[dict[str, Any], int]:
        value: dict[str, Any] = {}
        for name, read, _ in fields:
            value[name], position = read(data, position)
        return value, position

    def encode(out: bytearray, value: dict[str, Any]) -> None:
        for name, _, write in fields:
            write(out, value[name])

    return decode, encode


def _array(item_decode: Decode, item_encode: Encode) -> tuple[Decode, Encode]:
    def decode(data: bytes, position: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        while True:
            count, position = _long(data, position)
            if count == 0:
                return items, position
            if count < 0:
                _, position = _long(data, position)
            for _ in range(abs(count)):
                item, position = item_decode(data, position)
                items.append(item)

    def encode(out: bytearray, value: list[Any]) -> None:
        if value:
            _put_long(out, len(value))
            for item in value:
                item_encode(out, item)
        out.append(0)

    return decode, encode
