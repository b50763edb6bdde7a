"""What each source promises, held against what its files give: declared in the source's module.

Tables, columns and types concern a whole file; a variable, unit or configuration its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial

import pandera.polars as pandera
import polars as pl
import pyarrow as pa

from thalweg import sources
from thalweg.errors import InvalidInput, NotFound
from thalweg.sources import Contract
from thalweg.warehouse.access import definition
from thalweg.warehouse.contracts import Batch, Clause, apart, of_pairs, reasons
from thalweg.warehouse.merge import conform

__all__ = ["check_file", "check_rows", "of"]

#: What of a row its source promises, and where `configurations` has it.
COLUMNS = ["variable_name", "unit_name", "configuration_name"]
CONFIGURATION = {"configurations": "name"}


def of(source: str) -> Contract | None:
    """What a source promises; None where there is no module of this name, as of files by hand.

    Raises
    ------
    InvalidInput
        There is a module, and it promises nothing.
    """
    try:
        return sources.contract(source)
    except NotFound:
        return None


def check_file(source: str, tables: Mapping[str, pa.Table]) -> None:
    """See that a file gives the tables, columns and types that its source promises.

    A source of fields promises no tables: rows that are made of these are let through.

    Raises
    ------
    InvalidInput
        It does not; says what was promised, and what came.
    """
    contract = of(source)
    if contract is None or not contract.tables:
        return
    others = []
    for name, rows in tables.items():
        expected, came = contract.tables.get(name), rows.schema.remove_metadata()
        if expected and contract.is_partial:
            expected = pa.schema(field for field in expected if field.name in came.names)
        others.append(_differs(name, expected, came))
    if said := "; ".join(each for each in others if each):
        raise InvalidInput(
            f"{source} does not give what it promises: {said}. If the provider has changed, mend "
            f"`read` or CONTRACT in thalweg.sources.{source}, then load the file again"
        )


def check_rows(source: str, name: str, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Tell the rows whose variable, unit and configuration the source promises from the others.

    It looks at what occurs together, and at each row only where that is not all promised.

    Parameters
    ----------
    rows
        As for `contracts.check`.

    Returns
    -------
    good, bad
        As of `contracts.check`, but the good ones as the table is read, or without a bad one all as
        they came.
    """
    contract = of(source)
    names = [CONFIGURATION[name]] if name in CONFIGURATION else COLUMNS
    if contract and contract.tables and {*names} <= {*rows.column_names}:
        few = rows.select(names).unify_dictionaries().group_by(names).aggregate([])
        if not _keeps(source, contract, name, tuple(zip(*few.to_pydict().values(), strict=True))):
            found = [*_clauses(source, contract, name)]
            good, bad = apart(Batch(name, conform(name, rows), None), found)
            had = [column for column in good.column_names if column in rows.column_names]
            return definition(name).plain(good.select(had)), bad.select([*had, "reason"])
    return rows, rows.slice(0, 0)


def _clauses(source: str, contract: Contract, name: str) -> Iterator[Clause]:
    """What a source promises of the rows of a table."""
    by = f", as {source} promises"
    column = CONFIGURATION.get(name, "configuration_name")
    configurations = tuple(contract.configurations)
    yield Clause(column, f"{_either(configurations)}{by}", partial(_like, column, configurations))
    if name in CONFIGURATION:
        return
    variables = tuple(contract.units)
    yield Clause(
        "variable_name", f"{_either(variables)}{by}", partial(_like, "variable_name", variables)
    )
    for variable, units in contract.units.items():
        says = f"{_either(units)} of {variable}{by}"
        yield Clause("unit_name", says, partial(_sent, variable, contract.units))


@lru_cache(maxsize=1024)
def _keeps(source: str, contract: Contract, name: str, few: tuple[tuple[str, ...], ...]) -> bool:
    """Whether a source promises all of these combinations; files come by the thousand, with few."""
    names = [CONFIGURATION[name]] if name in CONFIGURATION else COLUMNS
    columns = zip(*few, strict=True) if few else [()] * len(names)
    rows = pa.table([pa.array(each, pa.string()) for each in columns], names=names)
    return reasons(Batch(name, rows, None), [*_clauses(source, contract, name)]) is None


@lru_cache(maxsize=256)
def _differs(name: str, expected: pa.Schema | None, came: pa.Schema) -> str:
    """In what the columns of a table are others than expected; "" where they are the same."""
    if expected is None:
        return f"{name}: no such table is promised, one came"
    types = {field.name: field.type for field in expected}
    # All null, a column has no type yet; one that has each text once is text.
    found = {
        field.name: types.get(field.name, field.type) if pa.types.is_null(field.type)
        else field.type.value_type if pa.types.is_dictionary(field.type)
        else field.type
        for field in came if field.name != "raw_file_id" or "raw_file_id" in types
    }  # fmt: skip
    found = {"raw_file_id": pa.string()} | found if "raw_file_id" in types else found
    columns = {column: pandera.Column(dtype) for column, dtype in _shape(types).schema.items()}
    try:
        pandera.DataFrameSchema(columns, strict=True).validate(_shape(found), lazy=True)
    except pandera.errors.SchemaErrors:
        wrong = [column for column in types | found if types.get(column) != found.get(column)]
        return "; ".join(
            f"{name}.{column}: {f'promised {types[column]}' if column in types else 'not promised'}"
            f", {f'came as {found[column]}' if column in found else 'did not come'}"
            for column in wrong
        )
    return ""


def _shape(types: Mapping[str, pa.DataType]) -> pl.DataFrame:
    return pl.from_arrow(pa.schema(types).empty_table())  # type: ignore[return-value]


def _like(column: str, patterns: Sequence[str], batch: Batch) -> pl.Expr:
    names = batch.rows[column].unique().drop_null().to_pylist()
    others = [name for name in names if not _first(name, patterns)]
    return pl.col(column).is_in(pl.Series(others, dtype=pl.String)).not_()


def _sent(variable: str, units: Mapping[str, Sequence[str]], batch: Batch) -> pl.Expr:
    return of_pairs(
        (name, unit)
        for name, unit in batch.pairs
        if _first(name, units) == variable and not _first(unit, units[variable])
    ).not_()


def _first(name: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that fits a name."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)
