"""Records in files of columns: Parquet and Arrow, by the library pyarrow.

parquet, arrow    readers

The library datasets keeps a class as its number, and the names of the classes beside the schema: such a number knows
them (ClassNumber).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from costopt.hostile import Hostile, parse_json
from costopt_trainer.data.files.extra import library
from costopt_trainer.data.files.found import DataFile
from costopt_trainer.data.records.table import Bad, ClassNames, ClassNumber, Record
from costopt_trainer.errors import NotRetryable, first_line, quoted

ROWS_AT_ONCE = 64
"""Rows that are in memory as Python's objects. A row may hold a book."""
_BUFFER_BYTES = 1 << 20
_MAGIC_OF_FILES = b"ARROW1"
"""Begins an Arrow file of which any batch can be read first; one that is a stream begins otherwise."""
_NOT_TEXT = object()
"""Stands for a text that is not UTF-8."""


def parquet(file: DataFile, fields: Sequence[str], _delimiter: str | None) -> Iterator[Record | Bad]:
    """The rows of a Parquet file. Columns are read in parts, not a whole group of rows at once."""
    module = library("pyarrow.parquet", file.name)
    if file.packing is not None:
        raise _invalid(file.name, f"must not be packed as {file.packing}, for Parquet is packed inside")

    def batches() -> Iterator[Any]:
        with module.ParquetFile(file.path, buffer_size=_BUFFER_BYTES, pre_buffer=False, memory_map=False) as content:
            columns = _columns(content.schema_arrow, fields, file)
            yield from content.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns, use_threads=False)

    return _rows(_guarded(batches(), file, "Parquet"), fields, file)


def arrow(file: DataFile, fields: Sequence[str], _delimiter: str | None) -> Iterator[Record | Bad]:
    """The rows of an Arrow file: a stream, as the library datasets writes it, or one with a table of its batches."""
    module = library("pyarrow", file.name)
    library("pyarrow.ipc", file.name)

    def batches() -> Iterator[Any]:
        with file.opened() as stream:
            if stream.read(len(_MAGIC_OF_FILES)) == _MAGIC_OF_FILES:
                if file.packing is not None:
                    raise _invalid(file.name, f"must not be packed as {file.packing}, for it is read at any place")
                with module.memory_map(str(file.path)) as source:
                    content = module.ipc.open_file(source)
                    _columns(content.schema, fields, file)
                    yield from (content.get_batch(number) for number in range(content.num_record_batches))
                return
        with file.opened() as stream, module.ipc.open_stream(module.PythonFile(stream, "r")) as content:
            _columns(content.schema, fields, file)
            yield from content

    return _rows(_guarded(batches(), file, "Arrow"), fields, file)


def _guarded(batches: Iterator[Any], file: DataFile, kind: str) -> Iterator[Any]:
    """The batches, with the library's errors in a sentence."""
    module = library("pyarrow", file.name)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (module.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise file.unreadable(error) from error
            raise _invalid(file.name, f"must be a whole {kind} file, but reading fails: {first_line(error)}") from error
        yield batch


def _columns(schema: Any, fields: Sequence[str], file: DataFile) -> list[str]:
    """The fields, each of which is one column."""
    for field in fields:
        count = len(schema.get_all_field_indices(field))
        if count != 1:
            there = ", ".join(map(quoted, schema.names[:10])) + (" and more" if len(schema.names) > 10 else "")
            has = f"but has {there or 'none'}" if count == 0 else f"but has {count} of that name"
            raise _invalid(file.name, f"must have a column {field!r}, {has}")
    return list(fields)


def _rows(batches: Iterator[Any], fields: Sequence[str], file: DataFile) -> Iterator[Record | Bad]:
    number = 0
    for batch in batches:
        written = (batch.schema.metadata or {}).get(b"huggingface", b"")
        names = {field: _class_names(written, field) for field in fields}
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            columns = [_values(batch.column(field).slice(start, ROWS_AT_ONCE)) for field in fields]
            columns = [_named(values, names[field]) for field, values in zip(fields, columns, strict=True)]
            for values in zip(*columns, strict=True):
                number += 1
                where = f"{file.name}, row {number},"
                spoiled = [field for field, value in zip(fields, values, strict=True) if value is _NOT_TEXT]
                if spoiled:
                    yield Bad(f"{where} must have UTF-8 in {spoiled[0]!r}")
                else:
                    yield Record(where, dict(zip(fields, values, strict=True)))


@lru_cache(maxsize=64)
def _class_names(written: bytes, field: str) -> ClassNames | None:
    """The names of a column's classes, as the library datasets writes them beside the schema; None of other columns."""
    try:
        names = parse_json(written)["info"]["features"][field]["names"]
    except (Hostile, LookupError, TypeError):
        return None
    is_whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return ClassNames(tuple(names)) if is_whole else None


def _named(values: list[Any], names: ClassNames | None) -> list[Any]:
    return [ClassNumber(value, names) if names is not None and type(value) is int else value for value in values]


def _values(column: Any) -> list[Any]:
    """A column's values as Python's objects; one that is not what its type says is _NOT_TEXT."""
    try:
        return list(column.to_pylist())
    except (UnicodeDecodeError, ValueError, OverflowError):
        return [_value(one) for one in column]


def _value(one: Any) -> Any:
    try:
        return one.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        return _NOT_TEXT


def _invalid(what: str, demand: str) -> NotRetryable:
    return NotRetryable("InvalidData", f"{what} {demand}")
