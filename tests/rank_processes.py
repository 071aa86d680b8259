"""Run a function in several processes that belong together, by gloo."""

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import get_context, start_processes

# imported once, by the server from which the processes fork; mmyolo_ext supplies mmcv's ops before mmdet
PRELOADED = ['mmyolo_ext', 'torch._dynamo', 'mmdet.engine', 'mmdet.evaluation', 'mmdet.models']
TIMEOUT = datetime.timedelta(seconds=90)


def run_ranks(job: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> list[Any]:
    """Return what ``job(*arguments)`` returns on each rank; a rank that waits for another fails after 90 s.

    Args:
        job: A function of a test module.
        world_size: Number of processes.
        folder: An empty one.
        *arguments: Of the job, the same for all ranks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    get_context('forkserver').set_forkserver_preload(PRELOADED)
    arguments = (world_size, folder, job, arguments)
    start_processes(_run_rank, arguments, nprocs=world_size, start_method='forkserver')
    return [torch.load(folder / f'{rank}.pt', weights_only=False) for rank in range(world_size)]


def _run_rank(rank: int, world_size: int, folder: Path, job: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size, timeout=TIMEOUT
    )
    torch.save(job(*arguments), folder / f'{rank}.pt')
    distributed.destroy_process_group()
