"""Independent trainers at the same time: the same results as alone, errors after all have ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny import CPU, random_batch, same_tensors, tiny_config, tiny_discriminator, tiny_translator
from torch import Tensor

from rgcluster.train.stage import Worker
from rgcluster.train.steps.side_by_side import SideBySide
from rgcluster.train.steps.translator import TranslatorTrainer
from rgcluster.translate.device import Device

ALONE = Worker(0, 1, CPU)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(device: Device, side_by_side: SideBySide) -> list[dict[str, Tensor]]:
    """The weights of three translators after a few updates on the same batches."""
    config = tiny_config()
    trainers = [
        TranslatorTrainer(
            tiny_translator(config, seed),
            tiny_discriminator(config, seed),
            config,
            config.translation,
            device,
            1,
        )
        for seed in (0, 0, 1)
    ]
    for step in range(3):
        batch = random_batch(config, seed=step)
        side_by_side([partial(trainer.update, step, batch) for trainer in trainers])
    return [trainer.translator.state_dict() for trainer in trainers]


@pytest.mark.parametrize("bf16", [False, True])
def test_trainers_do_not_change_each_other(bf16: bool) -> None:
    side_by_side = SideBySide(3, Worker(0, 1, replace(CPU, bf16=bf16)))
    together = trained(side_by_side.device, side_by_side)
    torch.set_num_threads(1)
    alone = trained(side_by_side.device, SideBySide(3, ALONE))
    assert all(same_tensors(*both) for both in zip(together, alone, strict=True))
    assert same_tensors(together[0], together[1]) and not same_tensors(together[0], together[2])


def test_functions_run_at_the_same_time_and_answer_in_order() -> None:
    meet = threading.Barrier(3, timeout=30)

    def wait_for_the_others(index: int) -> int:
        meet.wait()
        assert torch.get_num_threads() == 1
        return index

    assert SideBySide(3, ALONE)([partial(wait_for_the_others, index) for index in range(3)]) == [0, 1, 2]
    assert torch.get_num_threads() == 2


def test_an_error_is_raised_after_the_others_have_ended() -> None:
    ended = []

    def fails() -> None:
        raise ValueError("the first")

    def ends() -> None:
        time.sleep(0.2)
        ended.append(True)

    with pytest.raises(ValueError, match="the first"):
        SideBySide(2, ALONE)([fails, ends])
    assert ended


@pytest.mark.parametrize(
    "worker", [Worker(0, 2, CPU), Worker(0, 1, replace(CPU, torch=torch.device("meta")))]
)
def test_workers_with_collectives_and_other_devices_take_one_after_the_other(worker: Worker) -> None:
    side_by_side = SideBySide(3, worker)
    assert side_by_side.device is worker.device
    assert len({thread for thread in side_by_side([threading.get_ident] * 3)}) == 1
