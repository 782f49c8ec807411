"""The progress that some methods' steps depend on, kept in a buffer and on the host."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.parts.clock import Progress


class Counting(nn.Module):
    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.clock = Progress(self)


def test_a_checkpoint_holds_the_progress_and_a_resumed_method_goes_on_from_it() -> None:
    first, second = Counting(), Counting()
    assert first.clock.value(first.progress) == 0
    first.clock.move(first.progress, 0.25)
    assert first.clock.value(first.progress) == 0.25
    second.load_state_dict(first.state_dict())
    assert second.clock.value(second.progress) == 0.25


def test_only_the_first_step_after_a_resume_reads_the_buffer() -> None:
    counting = Counting()
    counting.load_state_dict({"progress": torch.tensor(0.5, dtype=torch.float64)})
    assert counting.clock.value(counting.progress) == 0.5
    assert counting.clock.value(torch.zeros(())) == 0.5
