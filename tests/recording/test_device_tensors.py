"""Tensors given to a Recorder: those on the CPU are taken, others are refused in one line that says what to call."""

import numpy as np
import pytest
import torch

from expkit import Field, Recorder, Schema, open_run
from expkit.errors import SchemaError

SCHEMA = Schema(
    [
        Field("observation", "f4", (3,), "observation"),
        Field("action", "i8", belongs="action"),
        Field("log_prob", "f4", belongs="action", nullable=True),
    ]
)


class OnCuda:
    """What CuPy's and Numba's arrays have; there is no such device here."""

    @property
    def __cuda_array_interface__(self):
        return {"shape": (3,), "typestr": "<f4", "data": (0, False), "version": 3}


def refused(call, name, what):
    with pytest.raises(SchemaError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert what in message
    assert f"give {name}.detach().cpu().numpy()" in message
    assert "\n" not in message


ELSEWHERE = [
    (lambda shape: torch.zeros(shape, device="meta"), "on device meta"),
    (lambda shape: torch.zeros(shape, requires_grad=True), "requires a gradient"),
    (lambda shape: OnCuda(), "on device cuda"),
]


@pytest.mark.parametrize(("tensor", "what"), ELSEWHERE)
def test_tensors_elsewhere_are_refused_by_every_form(tmp_path, tensor, what):
    with Recorder(tmp_path / "run", SCHEMA, num_envs=2, autoreset="next_step", min_free=0) as rec:
        row = dict(action=0, reward=0.0)
        refused(lambda: rec.add(episode=9, step=0, observation=tensor((3,)), **row), "observation", what)
        rec.add(episode=9, step=0, observation=np.zeros(3), **row)
        refused(lambda: rec.add(episode=9, step=1, observation=tensor((3,)), **row), "observation", what)
        refused(lambda: rec.end(episode=9, observation=tensor((3,))), "observation", what)
        batch = dict(action=[0, 0], reward=[0.0, 0.0], observation=np.zeros((2, 3)))
        for name, shape in [("observation", (2, 3)), ("log_prob", (2,)), ("reward", (2,))]:
            given = {**batch, name: tensor(shape)}
            refused(lambda given=given: rec.add_batch(episode=8, step=[0, 1], **given), name, what)
        refused(lambda: rec.reset(observation=tensor((2, 3))), "observation", what)
        rec.reset(observation=np.zeros((2, 3)))
        for name, shape in [("observation", (2, 3)), ("action", (2,)), ("log_prob", (2,)), ("terminated", (2,))]:
            given = {**batch, name: tensor(shape)}
            refused(lambda given=given: rec.step(**given), name, what)
        rec.step(**batch)
    assert open_run(tmp_path / "run").steps == 3


def test_tensors_on_the_cpu_are_taken_and_copied(tmp_path):
    seen, scores = torch.zeros(2, 3), torch.tensor([0.25, 0.5], dtype=torch.float64)
    with Recorder(tmp_path / "run", SCHEMA, num_envs=2, autoreset="next_step", min_free=0) as rec:
        rec.reset(observation=seen)
        for step in range(3):
            seen.fill_(step + 1)
            rec.step(
                action=torch.tensor([step, step]), reward=torch.ones(2), terminated=torch.tensor([False, step == 2]),
                observation=seen, log_prob=scores,
            )  # fmt: skip
        seen.fill_(99)
        rec.add(episode=9, step=0, observation=torch.ones(3), action=torch.tensor(2), reward=torch.tensor(0.5))
        rec.end(episode=9, observation=torch.ones(1, 3))
        with pytest.raises(SchemaError, match="log_prob: Tensor is no array of numbers"):
            rec.step(action=[0, 0], reward=[0, 0], observation=seen, log_prob=torch.ones(2, dtype=torch.bfloat16))
    run = open_run(tmp_path / "run")
    assert run.episode(1, 0)["observation"].tolist() == [[step] * 3 for step in range(4)]
    assert run.episode(0, 0)["log_prob"].tolist() == [0.25] * 3
    assert run.episode(9, 0)["reward"].tolist() == [0.5]
