"""The last observations of environments that reset themselves in the same step: `infos["final_obs"]`, in the forms in
which Gymnasium and others give it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expkit.errors import SchemaError
from expkit.recording.lead import Lead, Stored
from expkit.rows import RowFactory
from expkit.schema import Field


def final_values(factory: RowFactory, lead: Lead, fields: Sequence[Field], final: Any, ended: np.ndarray) -> Stored:
    """Stored columns (players, ended, ...) of the last rows of the environments `ended`, int64 (n,).

    final   an object array or a list with an observation for each of these environments (None for the others), or
            arrays that lead as observations do, or a mapping of several fields: {"observation": …, "action_mask": …}

    A mask that is not given is null, or without legal actions: nothing comes after. Raises SchemaError.
    """
    if final is None:
        raise SchemaError(
            f"final is missing: the episode of environment {ended[0]} is over, and its last observation is not in "
            "observation=; give final=info.get('final_obs')"
        )
    named = final if isinstance(final, Mapping) and "observation" in final else {"observation": final}
    given: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for name, value in named.items():
        if _is_by_env(value):
            given.update(_listed(factory, name, value, ended))
        else:
            whole.update(factory.resolve({name: value}))
    out: Stored = {}
    for field in fields:
        name = field.name
        if name in given:
            out[name] = lead.rows(name, given[name])
        elif whole.get(name) is not None:
            out[name] = lead.stored(name, whole[name])[:, ended]
        elif name != "action_mask":
            factory.check_absent(factory.columns[name])
        if name not in out:
            out[name] = np.zeros((lead.players, len(ended), *lead.tail(name)), factory.columns[name].dtype)
            valid = False
        else:
            valid = True
        if field.nullable:
            out[f"valid:{name}"] = np.full((lead.players, len(ended)), valid)
    return out


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
