"""The processes that train together, one per device: which one this is, and how they exchange numbers.

Started by ``torchrun``, whose environment variables say how many there are; otherwise there is one. The gradient is the
sum over the processes of their parts of the batch's mean; with `SyncedNorm` and `SharedDropout` a batch of two
processes is that of one.

Guarantee: every collective is called by all processes in the same order, also by one that has no track of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce

from student_clap.train.data.order import share
from student_clap.train.students.student import SegmentBatchNorm

LAUNCHED = "STUDENT_CLAP_LAUNCHED"  # an environment variable that `train.launch` sets
_TIMEOUT = timedelta(minutes=30)  # a process may wait while another one makes checkpoints


@dataclass(frozen=True)
class Place:
    """Where this process's segments of a micro-batch lie among those of all processes."""

    first: int = 0
    own: int = 0
    total: int = 0


class Distributed:
    """The group of `world_size` processes, of which this is number `rank`."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self.place = Place()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        """Whether it is the first of its machine's processes."""
        return self.world_size == 1 or os.environ.get("LOCAL_RANK", "0") == "0"

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes, in every one of them. In place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def largest(self, value: int) -> int:
        """The largest of the values that the processes give."""
        return max(self.gather(value)) if self.world_size > 1 else value

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (a small Python object), in order of rank."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """Every process's rows, [n, ...] with its own n, without gradients, in order of rank."""
        if self.world_size == 1:
            return [rows.detach()]
        counts = self.gather(len(rows))
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return [part[:count] for part, count in zip(found, counts, strict=True)]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every process the sum of the gradients. A parameter without one has a gradient of zero."""
        if self.world_size == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # One collective for all of them.
        flat = torch.cat([p.grad.reshape(-1) for p in wanted if p.grad is not None])
        dist.all_reduce(flat)
        begin = 0
        for parameter in wanted:
            size = parameter.numel()
            if parameter.grad is not None:
                # Into the gradient as it lies: a fused optimiser wants its parameter's strides (channels_last).
                parameter.grad.copy_(flat[begin : begin + size].view_as(parameter))
            begin += size

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def share(self, n: int) -> slice:
        """Which of `n` items are this process's: a run of neighbours, equal to within one between processes."""
        return share(n, self.rank, self.world_size)


@contextmanager
def join_processes(device: str) -> Iterator[Distributed]:
    """Join the processes that torchrun started; alone where it started none.

    Args:
        device: training.device; it decides between NCCL and gloo.

    Raises:
        click.ClickException: the environment variables are not torchrun's.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Distributed()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise click.ClickException(
            f"WORLD_SIZE is set but {', '.join(missing)} is not; start several processes with torchrun, or unset it"
        )
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    own = _own_gpu() if on_gpu else None
    if own is not None:
        torch.cuda.set_device(own)  # where collectives put what has no device of its own; else all are on the first
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_TIMEOUT, device_id=own)
    try:
        yield Distributed(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def _own_gpu() -> torch.device | None:
    """This process's GPU; None where there are not enough, which `resolve_device` says."""
    number = int(os.environ["LOCAL_RANK"])
    return torch.device("cuda", number) if number < torch.cuda.device_count() else None


def by_bare_torchrun() -> bool:
    """Whether torchrun started this process, and `train.launch`, which knows how such a run ends, did not."""
    return "TORCHELASTIC_RUN_ID" in os.environ and LAUNCHED not in os.environ


class SyncedNorm(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  the base of all of torch's
    """Batch normalisation over the batch of all processes, with the parameters and names of the one it replaces.

    torch's own SyncBatchNorm needs CUDA and a part of every batch in each process.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  the name is torch's
        """Any number of dimensions will do."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[batch, channel, ...] -> the same shape."""
        if not self.training:
            out: Tensor = super().forward(input)
            return out
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        channels = input.shape[1]
        x = input.float()
        count = x.new_tensor([x.numel() // max(1, channels)])
        # sums: [2 * channel + 1]
        sums: Tensor = differentiable_all_reduce(  # type: ignore[no-untyped-call]
            torch.cat([x.sum(axes), x.square().sum(axes), count])
        )
        total = sums[-1].detach()
        mean = sums[:channels] / total
        variance = (sums[channels:-1] / total - mean.square()).clamp(min=0)
        if input.ndim == 2 and total <= 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self.running_mean is not None and self.running_var is not None and self.momentum:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * total / (total - 1).clamp(min=1), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normed: Tensor = (x - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)


class ActivatedNorm(SyncedNorm):
    """One with a dropout and an activation behind it, under the names of timm's `BatchNormAct2d`."""

    def __init__(self, norm: SyncedNorm, drop: nn.Module, act: nn.Module) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, device=norm.weight.device)
        self.load_state_dict(norm.state_dict())
        self.drop, self.act = drop, act

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[batch, channel, ...] -> the same shape."""
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


def synchronise_norms(module: nn.Module) -> None:
    """Replace every BatchNorm in `module` by one over all processes.

    Raises:
        click.ClickException: there is one that does more than normalise, in a way that is not known.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            synced = SyncedNorm(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            setattr(module, name, _with_what_follows(child, synced.to(child.weight.device)))
        else:
            synchronise_norms(child)


def _with_what_follows(norm: nn.Module, synced: SyncedNorm) -> SyncedNorm:
    """timm's norms have an activation, and a dropout, inside."""
    if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, SegmentBatchNorm):
        return synced
    drop, act = (getattr(norm, part, None) for part in ("drop", "act"))
    if not isinstance(drop, nn.Module) or not isinstance(act, nn.Module):
        raise click.ClickException(
            f"a norm of the type {type(norm).__name__} cannot be shared by several processes; train this student in one"
        )
    return ActivatedNorm(synced, drop, act)


class SharedDropout(nn.Dropout):
    """Dropout whose mask is cut out of that of all processes' segments: which process has a segment changes nothing.

    All processes must draw from the same seed. `distributed.place` says which part is this process's.
    """

    def __init__(self, p: float, distributed: Distributed) -> None:
        super().__init__(p)
        self._distributed = distributed

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the place changes from step to step
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[segment, ...] -> the same shape."""
        place = self._distributed.place
        if not self.training or not self.p or not place.own:
            return input
        each = len(input) // place.own  # rows of a segment
        whole = F.dropout(input.new_ones((each * place.total, *input.shape[1:])), self.p)
        return input * whole[each * place.first : each * (place.first + place.own)]


def share_dropouts(module: nn.Module, distributed: Distributed) -> None:
    """Replace every Dropout in `module` by one over all processes."""
    for name, child in module.named_children():
        if isinstance(child, nn.Dropout):
            setattr(module, name, SharedDropout(child.p, distributed))
        else:
            share_dropouts(child, distributed)
