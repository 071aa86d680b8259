"""Start the processes of a training or test: torchrun with short messages and the exit codes of its processes.

``python tools/launch.py [OPTIONS OF TORCHRUN] SCRIPT [OPTIONS OF SCRIPT]``; dist_train.sh and dist_test.sh call it.
"""

import argparse
import logging
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from torch.distributed import run
from torch.distributed.elastic.agent.server import WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.api import RunResult
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher import api

LAUNCHER_PID = 'MMYOLO_EXT_LAUNCHER_PID'  # lets the processes notice that their launcher is gone
ELASTIC = 'MMYOLO_EXT_ELASTIC'  # tells them that their number may change from start to start
USER_ERROR = 2  # exit code of tools/*.py for a wrong option, config or dataset
SECONDS_AFTER_CLOSING = 30  # grace period of the processes after another node has stopped
DEFAULT_PORT = 29500
SIOCGIFADDR = 0x8915


class Agent(LocalElasticAgent):
    """torchrun's agent of one node that does not restart after a user's error, and stops when another node does."""

    closed_at: float | None = None

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.state is WorkerState.FAILED and result.failures:
            self._announce_restart(result.failures, worker_group.spec.max_restarts)
        elif result.state is WorkerState.HEALTHY and worker_group.spec.rdzv_handler.is_closed():
            self.closed_at = self.closed_at or time.monotonic()
            if time.monotonic() - self.closed_at > SECONDS_AFTER_CLOSING:
                raise RendezvousClosedError
        return result

    def _announce_restart(self, failures: dict[int, ProcessFailure], max_restarts: int) -> None:
        rank, failure = first_failure(failures)
        if failure.exitcode == USER_ERROR:
            self._remaining_restarts = 0
        elif self._remaining_restarts > 0:
            attempt = max_restarts - self._remaining_restarts + 1
            _say(f'restart {attempt} of {max_restarts}: process {rank} {_how_it_ended(failure)}')


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Launch and exit with the code of the processes."""
    sys.exit(launch(sys.argv[1:] if argv is None else argv))


def launch(argv: Sequence[str]) -> int:
    """Run the processes until all have ended.

    Returns:
        0 if all of them finished; the exit code of the process that failed first, 128 + n if signal n killed it;
        128 + n if the launcher received signal n; 1 if the nodes did not find or lost each other.
    """
    for part in ('', '.agent.server.api', '.multiprocessing.api'):
        logging.getLogger(f'torch.distributed.elastic{part}').setLevel(logging.CRITICAL)
    args = run.parse_args(argv)
    if hasattr(args, 'signals_to_handle') and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        # torchrun would end at the end of the terminal although nohup asked it not to
        args.signals_to_handle = args.signals_to_handle.replace(',SIGHUP', '')
    os.environ[LAUNCHER_PID] = str(os.getpid())
    if ':' in args.nnodes and len(set(args.nnodes.split(':'))) > 1:
        os.environ[ELASTIC] = '1'
    # Else restarted processes find the addresses of those before them in the store of torch 2.13, and wait for them.
    os.environ.setdefault('TORCH_DISABLE_SHARE_RDZV_TCP_STORE', '1')
    api.LocalElasticAgent = Agent  # torchrun has no option for it
    try:
        prepare_rendezvous(args)
        run.run(args)
    except ChildFailedError as error:
        rank, failure = first_failure(error.failures)
        _say(f'stopped: process {rank} {_how_it_ended(failure)}; its message is above')
        return _exit_code(failure)
    except SignalException as stop:
        name = signal.Signals(stop.sigval).name
        _say(f'stopped by {name}, which all processes of this node received; their messages are above')
        return 128 + int(stop.sigval)
    except KeyboardInterrupt:  # before the processes exist
        _say('stopped by SIGINT before the training began')
        return 130
    except RendezvousClosedError:
        _say('stopped: another node ended the training; its message says why')
        return 1
    except RendezvousTimeoutError:
        _say(f'error: not all {args.nnodes} nodes joined at {args.rdzv_endpoint}: start the same command on each node')
        return 1
    except RendezvousConnectionError:
        _say(f'error: {_what_to_do_without_rendezvous(args)}')
        return 1
    except (ValueError, RendezvousError) as error:
        _say(f'error: {" ".join(str(error).split())}')
        return USER_ERROR
    return 0


def prepare_rendezvous(args: argparse.Namespace) -> None:
    """Decide which node hosts the rendezvous and by which address this node is reached.

    torchrun asks the host name for both, which often resolves to 127.0.1.1 or to nothing. The host is the node of
    rank 0 if the environment variable NODE_RANK is set, else the one that has the address of ``--rdzv-endpoint``.

    Raises:
        ValueError: If the address of the endpoint cannot be resolved.
    """
    if args.standalone or args.rdzv_backend != 'c10d':
        args.local_addr = args.local_addr or ('127.0.0.1' if args.standalone else None)
        return
    host, port = parse_rendezvous_endpoint(args.rdzv_endpoint, default_port=DEFAULT_PORT)
    args.rdzv_endpoint = f'{host}:{port}'
    own_address = _address_towards(host, port)
    args.local_addr = args.local_addr or own_address
    options = [option for option in args.rdzv_conf.split(',') if option]
    if not any(option.startswith('is_host=') for option in options):
        node_rank = os.environ.get('NODE_RANK')
        args.is_host = node_rank == '0' if node_rank else _resolve(host) == own_address
        options.append(f'is_host={int(args.is_host)}')
    args.rdzv_conf = ','.join(options)
    interface = _interface_of(own_address)
    if interface:
        os.environ.setdefault('GLOO_SOCKET_IFNAME', interface)  # gloo would resolve the host name


def first_failure(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return the rank whose failure caused those of the others, and its failure.

    Failures are noticed together, in seconds. Among those of one second a process that a signal killed comes first,
    then one with an error of its own, then one that lost its peers, at last those that the launcher ended.
    """

    def order(rank: int) -> tuple[int, int, int]:
        code = failures[rank].exitcode
        kind = 3 if code == -signal.SIGTERM else 0 if code < 0 else 1 if code == USER_ERROR else 2
        return failures[rank].timestamp, kind, rank

    rank = min(failures, key=order)
    return rank, failures[rank]


def _how_it_ended(failure: ProcessFailure) -> str:
    where = f'on {socket.gethostname()}'
    if failure.exitcode < 0:
        return f'{where} was killed by {failure.signal_name()}'
    return f'{where} ended with code {failure.exitcode}'


def _exit_code(failure: ProcessFailure) -> int:
    return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode


def _what_to_do_without_rendezvous(args: argparse.Namespace) -> str:
    if getattr(args, 'is_host', False):
        return f'{args.rdzv_endpoint} is used by another process: set another PORT, the same on each node'
    return (
        f'no connection to {args.rdzv_endpoint}: start the same command on the node with this address too, check that '
        'its port is open; if it was lost during the training, start the command on all nodes again'
    )


def _resolve(host: str) -> str:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise ValueError(f'the address {host!r} of MASTER_ADDR cannot be resolved: {error.strerror}') from error


def _address_towards(host: str, port: int) -> str:
    """Return the address from which this node reaches ``host``; nothing is sent."""
    address = _resolve(host)
    with socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, port))
        except OSError as error:
            raise ValueError(f'no route to {host}, the address of MASTER_ADDR: {error.strerror}') from error
        return probe.getsockname()[0]


def _interface_of(address: str) -> str | None:
    """Return the name of the network interface with this IPv4 address, None where that cannot be found out."""
    if not sys.platform.startswith('linux') or ':' in address:
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack('256s', name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
