"""Rows for the buffer tests: numbered, and each field derived from the number, so that a wrong one is seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from expkit.row.schema import Field, Schema

SCHEMA = Schema(
    [
        Field("observation/board", "i2", (3, 2), belongs="observation"),
        Field("mask", "bool", (11,), belongs="observation"),
        Field("action", "u1", belongs="action"),
        Field("half", "f2", belongs="step"),
        Field("value", "f4", belongs="action", nullable=True),
    ]
)


def row(number: int) -> dict[str, Any]:
    """One logical row; every third has a null `value`, every seventh is a final row with observations only."""
    out: dict[str, Any] = {
        "episode": number // 100,
        "step": number,
        "observation/board": (np.arange(6) + number % 1000).astype(np.int16).reshape(3, 2),
        "mask": np.arange(11) % 3 == number % 3,
    }
    if number % 7 == 0:
        return out | {"is_last": True}
    out |= {
        "action": number % 256,
        "half": (number % 64) / 4,
        "reward": number / 2,
        "terminated": number % 5 == 0,
        "truncated": False,
    }
    return out if number % 3 == 0 else out | {"value": float(number)}


def batch(start: int, stop: int) -> dict[str, Any]:
    """Rows start..stop-1 as logical columns, without nulls and final rows."""
    n = np.arange(start, stop)
    return {
        "episode": n // 100,
        "step": n,
        "observation/board": (np.arange(6) + n[:, None] % 1000).astype(np.int16).reshape(-1, 3, 2),
        "mask": np.arange(11) % 3 == n[:, None] % 3,
        "action": n % 256,
        "half": (n % 64) / 4,
        "reward": n / 2,
        "terminated": n % 5 == 0,
        "truncated": np.zeros(len(n), bool),
        "value": n.astype(np.float32),
    }


def check(columns: dict[str, np.ndarray], batched: set[int] | None = None) -> list[int]:
    """Assert that each stored row is what `row` (or `batch`, for numbers in `batched`) gave; returns the numbers."""
    assert list(columns) == [column.name for column in SCHEMA.columns]
    n = columns["step"].astype(np.int64)
    in_batch = np.isin(n, list(batched or ()))
    final = (n % 7 == 0) & ~in_batch
    valid = in_batch | (~final & (n % 3 != 0))
    expected = {
        "episode": n // 100,
        "is_last": final,
        "is_first": np.zeros(len(n), bool),
        "policy": 0 * n,
        "observation/board": np.arange(6) + n[:, None] % 1000,
        "mask": np.packbits(np.arange(11) % 3 == n[:, None] % 3, axis=1, bitorder="little"),
        "action": np.where(final, 0, n % 256),
        "half": np.where(final, 0, (n % 64) / 4),
        "reward": np.where(final, 0, n / 2),
        "terminated": ~final & (n % 5 == 0),
        "value": np.where(valid, n, 0),
        "valid:value": valid,
    }
    for name, want in expected.items():
        np.testing.assert_array_equal(columns[name], want, err_msg=name)
    return n.tolist()
