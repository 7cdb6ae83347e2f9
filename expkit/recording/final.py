"""The last observations of environments that reset themselves in the same step: `infos["final_obs"]`, in the forms in
which Gymnasium and others give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.recording.table import LAST, RowTable
from expkit.row.factory import RowFactory
from expkit.row.schema import Field


def put_last(factory: RowFactory, table: RowTable, fields: Sequence[Field], final: Any, ended: np.ndarray) -> None:
    """Put what was seen last in the environments `ended`, int64 (n,), into that part of the table.

    final   an object array or a list with an observation for each of these environments (None for the others), or
            arrays that lead as observations do, or a mapping of several fields: {"observation": …, "action_mask": …}

    A mask that is not given is null, or without legal actions: nothing comes after. Raises SchemaError.
    """
    if final is None:
        raise SchemaError(
            f"final is missing: the episode of environment {ended[0]} is over, and its last observation is not in "
            "observation=; give final=info.get('final_obs')"
        )
    named = final if _is_by_field(final) else {"observation": final}
    given: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for name, value in named.items():
        if _is_by_env(value):
            given.update(_listed(factory, name, value, ended))
        else:
            whole.update(factory.resolve({name: value}))
    for field in fields:
        name = field.name
        if name in given:
            table.put_some(LAST, field, given[name], ended)
        elif whole.get(name) is not None or name != "action_mask" or field.nullable:
            table.put(LAST, field, whole.get(name))
        else:
            table.parts[LAST][name][...] = 0


def _is_by_field(value: Any) -> bool:
    return isinstance(value, Mapping) and any(str(name).partition("/")[0] == "observation" for name in value)


def _is_by_env(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object)


def _listed(factory: RowFactory, name: str, values: Sequence[Any], ended: np.ndarray) -> dict[str, list[Any]]:
    """By field the values of the environments that ended, taken from one for each environment."""
    out: dict[str, list[Any]] = {}
    for env in ended.tolist():
        one = values[env] if env < len(values) else None
        if one is None:
            raise SchemaError(f"final: the episode of environment {env} is over, and final has no {name} of it")
        for field, value in factory.resolve({name: one}).items():
            out.setdefault(field, []).append(value)
    return out
