"""Launching: processes that fail, are killed, restart and find each other."""

import os
import re
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from launching import SECONDS, Started, launch, run
from tiny_coco import REPO

from mmyolo_ext.cli.launch import first_failure

# A process that needs no torch, so that only the launcher takes time to start.
SCRIPT = """
import os, signal, sys, threading

rank, start = int(os.environ['RANK']), int(os.environ['TORCHELASTIC_RESTART_COUNT'])
print(f'rank {rank} of {os.environ["WORLD_SIZE"]}, start {start}, process {os.getpid()}', flush=True)


def save(number, frame):
    threading.Event().wait(1.5)  # a checkpoint is written
    print(f'rank {rank} saved', flush=True)
    os._exit(128 + number)


mode = sys.argv[1]
if mode == 'save':
    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
    print(f'rank {rank} is ready', flush=True)
    signal.pause()
elif mode == 'once' and start == 0 or mode == 'die':
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))  # as a process that lost its peers
    signal.pause()
elif mode.isdigit():
    if rank == 1:
        sys.exit(int(mode))
    signal.pause()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ('mode', 'code', 'how'),
    [('3', 3, 'ended with code 3'), ('die', 137, 'was killed by SIGKILL')],
)
def test_the_process_that_failed_first_is_named_and_gives_the_exit_code(script, mode, code, how):
    output = run(launch(script, mode), code=code)
    assert output.splitlines()[-1] == f'stopped: process 1 on {socket.gethostname()} {how}; its message is above'
    assert 'Traceback' not in output


@pytest.mark.parametrize(
    ('failures', 'first'),
    [
        ({0: (5, 1), 1: (5, -signal.SIGKILL)}, 1),  # 0 lost its peer
        ({0: (5, -signal.SIGTERM), 1: (5, 1)}, 1),  # the launcher ended 0
        ({0: (5, 1), 1: (5, 2)}, 1),
        ({0: (4, 1), 1: (5, -signal.SIGKILL)}, 0),
    ],
)
def test_the_cause_of_failures_comes_before_their_consequences(failures, first):
    failures = {rank: SimpleNamespace(timestamp=time, exitcode=code) for rank, (time, code) in failures.items()}
    assert first_failure(failures)[0] == first


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_all_processes_and_the_launcher_waits_for_them(script, number, code):
    launcher = Started(launch(script, 'save'))
    launcher.wait_for('is ready', times=2)
    launcher.send(number)
    output = launcher.end(code)
    assert output.count(' saved') == 2 and 'death signal' not in output
    assert output.splitlines()[-1].startswith(f'stopped by {number.name}, which all processes')


def test_a_restart_is_announced_and_can_succeed(script):
    output = run(launch(script, 'once', options=['--standalone', '--max-restarts=2']))
    assert f'restart 1 of 2: process 1 on {socket.gethostname()} was killed by SIGKILL' in output
    assert re.findall(r'rank 1 of 2, start (\d)', output) == ['0', '1']


def test_an_error_of_the_user_is_not_tried_again(script):
    output = run(launch(script, '2', options=['--standalone', '--max-restarts=2']), code=2)
    assert output.count('rank 1 of 2') == 1 and 'restart' not in output


def nodes_on_one_address(nodes: str, port: int) -> list[str]:
    return [f'--nnodes={nodes}', '--rdzv-backend=c10d', f'--rdzv-endpoint=127.0.0.1:{port}', '--rdzv-id=test']


def test_a_node_that_gives_up_ends_the_others(script):
    # One second in place of thirty for the processes of the other node to end by themselves.
    quick = 'import sys; from mmyolo_ext.cli import launch; launch.SECONDS_AFTER_CLOSING = 1'
    options = nodes_on_one_address('2', free_port())
    command = [sys.executable, '-c', f'{quick}; launch.main()', *options, script, '3']
    nodes = [Started(command, NODE_RANK=rank) for rank in range(2)]
    outputs = {node.process.wait(SECONDS): node for node in nodes}
    assert outputs[3].end(3).splitlines()[-1].startswith('stopped: process 1 on ')
    assert outputs[1].end(1).splitlines()[-1] in (
        'stopped: another node ended the training; its message says why',
        next((line for line in outputs[1].lines if line.startswith('error: no connection to 127.0.0.1:')), None),
    )


def test_elastic_nodes_join_a_training_that_runs(script):
    command = launch(script, 'save', processes=1, options=nodes_on_one_address('1:2', free_port()))
    first = Started(command, NODE_RANK=0)
    first.wait_for('rank 0 is ready')
    second = Started(command, NODE_RANK=1)
    second.wait_for('is ready')
    first.wait_for('is ready', times=2)
    assert re.findall(r'rank \d of (\d)', first.text) == ['1', '2'] and ' saved' in first.text
    for node in (second, first):
        node.send(signal.SIGTERM)
    assert 'rank 1 saved' in second.end(143) + first.end(143)


def test_a_port_in_use_is_one_line(script):
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        options = ['--rdzv-backend=c10d', f'--rdzv-endpoint=127.0.0.1:{port}', '--rdzv-id=test']
        output = run(launch(script, 'finish', options=options), code=1)
    assert output.splitlines() == [
        f'error: 127.0.0.1:{port} is used by another process: set another PORT, the same on each node'
    ]


def test_an_address_that_does_not_exist_is_one_line(script):
    options = ['--nnodes=2', '--rdzv-backend=c10d', '--rdzv-endpoint=no-such-host.invalid:29500', '--rdzv-id=test']
    output = run(launch(script, 'finish', options=options), code=2)
    assert output.startswith("error: the address 'no-such-host.invalid' of MASTER_ADDR cannot be resolved")
    assert len(output.splitlines()) == 1


def test_a_killed_launcher_takes_its_processes_along(tmp_path):
    script = tmp_path / 'script.py'
    lines = [
        'import os, signal',
        'from mmyolo_ext.apis.distributed import end_with_launcher',
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), os._exit(143)))",
        'end_with_launcher()',
        "print('ready', flush=True)",
        'signal.pause()',
    ]
    script.write_text('\n'.join(lines))
    launcher = Started(launch(script))
    launcher.wait_for('ready', times=2)
    launcher.send(signal.SIGKILL)
    # The output ends when the last process that could write to it has ended.
    assert launcher.end(-signal.SIGKILL).count('saved') == 2


@pytest.mark.parametrize(
    ('variables', 'message'),
    [
        ({'NNODES': 'two'}, "NNODES must be a number of nodes such as 2 or a range such as 1:4, got 'two'"),
        ({'NNODES': '3:2'}, "NNODES must be a number of nodes such as 2 or a range such as 1:4, got '3:2'"),
        ({'NNODES': '2'}, 'NNODES=2 needs MASTER_ADDR, the address of the first node, the same on all nodes'),
        ({'MAX_RESTARTS': '-1'}, "MAX_RESTARTS must be a whole number of at least 0, got '-1'"),
    ],
)
def test_wrong_variables_are_one_line(variables, message):
    output = run(['bash', REPO / 'tools' / 'dist_train.sh', 'config.py', 2], code=2, **variables)
    assert output == f'error: {message}'


@pytest.mark.parametrize(
    ('variables', 'resumes'), [({}, False), ({'MAX_RESTARTS': 1}, True), ({'NNODES': '1:2'}, True)]
)
def test_restarts_resume(tmp_path, variables, resumes):
    echo = tmp_path / 'python'
    echo.write_text('#!/bin/sh\necho "$@"\n')
    echo.chmod(0o755)
    variables = {'PYTHON': echo, 'MASTER_ADDR': 'node1', **variables}
    script = REPO / 'tools' / 'dist_train.sh'
    output = run(['bash', script, 'config.py', 2, '--work-dir', 'w'], **variables)
    assert output.endswith('--launcher pytorch --resume auto --work-dir w' if resumes else 'pytorch --work-dir w')
    own = run(['bash', script, 'config.py', 2, '--resume', 'x.pth'], **variables)
    assert own.endswith('--launcher pytorch --resume x.pth')
    if 'NNODES' in variables:
        assert '--nnodes=1:2' in output and '--rdzv-endpoint=node1:29500' in output


@pytest.mark.parametrize(
    ('script', 'arguments'), [('slurm_train.sh', ['p', 'j', 'c.py']), ('slurm_test.sh', ['p', 'j', 'c.py'])]
)
def test_slurm_scripts_say_how_they_are_used_and_need_srun(script, arguments):
    path = REPO / 'tools' / script
    assert f'bash tools/{script} PARTITION JOB_NAME CONFIG' in run(['bash', path, *arguments], code=2)
    assert 'GPUS must be a multiple of GPUS_PER_NODE, got 6 and 4' in run(
        ['bash', path, *arguments, 'w'], code=2, GPUS=6, GPUS_PER_NODE=4
    )
    nowhere = ':'.join(
        folder for folder in os.environ['PATH'].split(':') if not os.path.exists(os.path.join(folder, 'srun'))
    )
    assert 'error: srun was not found' in run(['bash', path, *arguments, 'w'], code=2, PATH=nowhere)
