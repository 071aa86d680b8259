"""Join the processes of a run, with or without GPUs, and compare their configs and data."""

import datetime
import hashlib
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from torch import distributed

from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.engine.stopping import end_with_parent
from mmyolo_ext.version import __version__

# Variables by which each launcher numbers the processes: (rank, number of processes, rank on this machine).
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
STARTERS = {'pytorch': 'tools/dist_train.sh or torchrun', 'slurm': 'tools/slurm_train.sh or srun', 'mpi': 'mpirun'}
LAUNCHER_PID = 'MMYOLO_EXT_LAUNCHER_PID'  # set by tools/launch.py
TIMEOUT_S = 600
DEFAULT_PORT = 29500
# Keys of paths, and of what depends on cores and memory: every node may have its own.
PLACES = {
    *('work_dir', 'data_root', 'ann_file', 'data_prefix', 'filename', 'folder', 'save_dir', 'out_dir'),
    *('num_workers', 'persistent_workers', 'max_gb', 'chosen_recipe', 'overridden'),
}
MOST_DIFFERENCES = 3
MOST_RANKS = 3
CHUNK_BYTES = 1 << 20


def prepare_processes(
    cfg: Config, launcher: str, loaders: Sequence[str] = ('train_dataloader', 'val_dataloader')
) -> None:
    """Join the process group and check that all ranks have the same config and data.

    NCCL is used with GPUs, gloo without; MMEngine's launchers assume a GPU for each process. A rank that waits longer
    than ``env_cfg.dist_cfg.timeout`` seconds (default 600) for the others ends with an error.

    Args:
        cfg: The resolved config; what depends on the number of processes is set in place.
        launcher: 'pytorch', 'slurm' or 'mpi'.
        loaders: Names of the loaders in use; their data is compared over ranks.

    Raises:
        ValueError: If the variables that the launcher sets are missing, if there are more processes than GPUs, or if
            ranks differ.
        SystemExit: If the processes do not find each other; with exit code 1, because a restart may help.
    """
    cfg.launcher = launcher
    rank, world_size, local_rank = set_rank_variables(launcher)
    if launcher == 'pytorch':
        end_with_launcher()
    if launcher == 'slurm':
        _set_slurm_address()
    elif launcher == 'mpi' and 'MASTER_ADDR' not in os.environ and _tasks_here(launcher, world_size) < world_size:
        raise ValueError('several machines need the address of the first one: mpirun -x MASTER_ADDR=HOST ...')
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', str(DEFAULT_PORT))
    if not distributed.is_initialized():
        _join(cfg, launcher, rank, world_size, local_rank)
    if not torch.cuda.is_available():
        cfg.model_wrapper_cfg = {
            'type': 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **cfg.get('model_wrapper_cfg', {}),
            'device_ids': None,
        }
    if world_size > 1:
        check_ranks(cfg, loaders)


def set_rank_variables(launcher: str) -> tuple[int, int, int]:
    """Number this process as torchrun does, for the recipe, messages and loaders: RANK, WORLD_SIZE, LOCAL_RANK.

    Args:
        launcher: Of :data:`VARIABLES`.

    Returns:
        Rank, number of processes, and rank on this machine.

    Raises:
        ValueError: If the launcher has not started this process.
    """
    missing = [name for name in VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher} needs the variables {missing}, which {STARTERS[launcher]} sets: start it with that'
        )
    rank, world_size, local_rank = numbers = tuple(int(os.environ[name]) for name in VARIABLES[launcher])
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    if launcher != 'pytorch':
        os.environ['LOCAL_WORLD_SIZE'] = str(_tasks_here(launcher, world_size))
    return numbers


def _tasks_here(launcher: str, world_size: int) -> int:
    """Return the number of processes on this machine; slurm lists that of all nodes as ``8(x3),4``."""
    if launcher == 'mpi':
        return int(os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', world_size))
    text = os.environ.get('SLURM_STEP_TASKS_PER_NODE') or os.environ.get('SLURM_TASKS_PER_NODE') or str(world_size)
    counts = []
    for count, times in re.findall(r'(\d+)(?:\(x(\d+)\))?', text):
        counts += [int(count)] * int(times or 1)
    return counts[min(int(os.environ.get('SLURM_NODEID', 0)), len(counts) - 1)]


def end_with_launcher() -> None:
    """Let this process receive SIGTERM when its torchrun is killed; then it saves and exits."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with_parent(signal.SIGTERM, parent=int(os.environ.get(LAUNCHER_PID, os.getppid())))


def first_host(node_list: str) -> str:
    """Return the first host of a slurm node list: ``'gpu[007-010,15],cpu1'`` gives ``'gpu007'``.

    slurm's own ``scontrol show hostnames`` is not installed in many containers.
    """
    host = re.match(r'(?:[^,\[]|\[[^\]]*\])*', node_list)[0]
    return re.sub(r'\[([^\],-]*)[^\]]*\]', r'\1', host)


def _set_slurm_address() -> None:
    nodes = os.environ.get('SLURM_STEP_NODELIST') or os.environ.get('SLURM_NODELIST') or ''
    if nodes:
        os.environ.setdefault('MASTER_ADDR', first_host(nodes))
    # Two jobs on one node get different ports, the ranks of a job the same one, below Linux' range for clients.
    job = int(os.environ.get('SLURM_JOB_ID', 0))
    os.environ.setdefault('MASTER_PORT', str(10000 + job % 20000))


def _join(cfg: Config, launcher: str, rank: int, world_size: int, local_rank: int) -> None:
    dist_cfg = cfg.get('env_cfg', {}).get('dist_cfg', {})
    backend = 'gloo'
    if torch.cuda.is_available():
        backend = dist_cfg.get('backend', 'nccl')
        torch.cuda.set_device(_own_gpu(launcher, local_rank))
    seconds = dist_cfg.get('timeout', TIMEOUT_S)
    try:
        distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=seconds))
    except (distributed.DistStoreError, distributed.DistNetworkError) as error:
        where = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        raise SystemExit(
            f'error: rank {rank} of {world_size} (host {socket.gethostname()}) did not find the others at {where} '
            f'within {seconds} s: are all of them started, and is this address reached from here? '
            f'({str(error).splitlines()[0]})'
        ) from error


def _own_gpu(launcher: str, local_rank: int) -> int:
    """Return the index of this process's GPU; slurm can show each task only its own one.

    Raises:
        ValueError: If there are fewer GPUs than processes.
    """
    count = torch.cuda.device_count()
    if launcher == 'slurm' and count == 1:
        os.environ['LOCAL_RANK'] = '0'
        return 0
    if local_rank >= count:
        raise ValueError(
            f'process {local_rank + 1} on {socket.gethostname()} has no GPU: it has {count}, so start at most {count} '
            'processes there'
        )
    return local_rank


def check_ranks(cfg: Config, loaders: Sequence[str]) -> None:
    """Compare config, versions, annotations and the number of images of every rank with those of rank 0.

    Each node's first rank reads its annotation files once and counts its images; the others of the node see the same
    files. All ranks take part and end the same way, so that none waits for one that has stopped.

    Args:
        cfg: The resolved config.
        loaders: The loaders in use, such as ``['train_dataloader', 'val_dataloader']``.

    Raises:
        ValueError: On every rank, if a rank differs or its data is missing. The message names rank, host and what
            differs.
    """
    host, problems, facts = socket.gethostname(), [], None
    try:
        facts = (config_facts(cfg), _data_facts(cfg, loaders))
    except (OSError, ValueError) as error:
        problems = [str(error)]
    reference = [(host, facts)]
    distributed.broadcast_object_list(reference, src=0)
    first_host, expected = reference[0]
    if facts and expected:
        wanted = {**expected[0], **expected[1]}
        # the other ranks of a node see the files of its first one
        own = {**facts[0], **(facts[1] if int(os.environ.get('LOCAL_RANK', 0)) == 0 else expected[1])}
        problems = [
            f'{name} is {own.get(name, "missing")}, not {wanted.get(name, "missing")}'
            for name in {**wanted, **own}
            if own.get(name) != wanted.get(name)
        ]
    reports: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(reports, (host, facts is not None, problems))
    faults = [_fault(rank, *report, first_host) for rank, report in enumerate(reports) if report[2]]
    if faults:
        more = f'; and {len(faults) - MOST_RANKS} more ranks' if len(faults) > MOST_RANKS else ''
        raise ValueError('; '.join(faults[:MOST_RANKS]) + more)


def _fault(rank: int, host: str, compared: bool, problems: list[str], first_host: str) -> str:
    more = f' and {len(problems) - MOST_DIFFERENCES} more' if len(problems) > MOST_DIFFERENCES else ''
    text = ', '.join(problems[:MOST_DIFFERENCES]) + more
    if compared:
        return f'rank {rank} (host {host}) differs from rank 0 (host {first_host}): {text}'
    return f'rank {rank} (host {host}): {text}'


def config_facts(cfg: Config) -> dict[str, str]:
    """Return what must be equal on all ranks apart from data: versions and each value of the config."""
    facts = {'version of mmyolo_ext': __version__, 'version of torch': torch.__version__}
    facts.update(_leaves(cfg.to_dict()))
    return facts


def _leaves(node: object, path: str = '') -> Iterator[tuple[str, str]]:
    """Yield the keys and values of a nested config, as ``train_dataloader.batch_size`` and ``'16'``."""
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(child, (dict, list, tuple)) for child in node):
        children = enumerate(node)
    else:
        text = re.sub(r' at 0x[0-9a-f]+', '', repr(node))  # addresses of functions
        yield path, text if len(text) <= 80 else f'{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})'
        return
    for key, child in children:
        if key not in PLACES:
            yield from _leaves(child, f'{path}.{key}' if path else str(key))


def _data_facts(cfg: Config, loaders: Sequence[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    if int(os.environ.get('LOCAL_RANK', 0)) > 0:  # the first rank of the node reads the same files
        return facts
    for loader in loaders:
        datasets = leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else ()
        for number, dataset in enumerate(datasets):
            where = loader + (f' ({number + 1})' if number else '')
            annotations = _local_path(dataset, dataset.get('ann_file') or dataset.get('data_yaml'))
            if annotations:
                facts[f'annotation file {annotations.name} of {where}'] = _content(annotations)
            for prefix in (dataset.get('data_prefix') or {}).values():
                folder = _local_path(dataset, prefix)
                if folder:
                    facts[f'number of files in {folder.name} of {where}'] = str(len(os.listdir(folder)))
    if cfg.get('load_from') and Path(cfg.load_from).is_file():
        facts['content of load_from'] = _content(Path(cfg.load_from))
    return facts


def _local_path(dataset: dict, relative: str | None) -> Path | None:
    """Return the path of a file or folder of a dataset; None for what is not on a disk."""
    root = dataset.get('data_root') or ''
    if not isinstance(relative, str) or not relative or dataset.get('backend_args'):
        return None
    if len(urlparse(root).scheme) > 1 or len(urlparse(relative).scheme) > 1:
        return None
    return Path(root) / relative


def _content(path: Path) -> str:
    """Describe what is in a file, or in the files of a folder by their names and sizes."""
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            digest.update(f'{entry.name} {entry.stat().st_size}\n'.encode())
        return f'a folder of other content ({digest.hexdigest()[:8]})'
    with path.open('rb') as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return f'{path.stat().st_size:,} bytes with SHA-256 {digest.hexdigest()[:8]}'
