"""Ranks that differ from each other, each on a node of its own, end with the same line."""

import hashlib
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from rank_processes import run_ranks
from torch import distributed

from mmyolo_ext.apis import distributed as checks


def messages_of(cases: list[Path]) -> dict[str, str]:
    """Return the message of each case; a rank believes to be the first of its node, whose data lies in CASE/RANK."""
    rank, found = distributed.get_rank(), {}
    os.environ['LOCAL_RANK'] = '0'
    checks.socket.gethostname = lambda: f'node{rank}'
    for case in cases:
        root = f'{case}/{rank}'
        dataset = {'type': 'Coco', 'data_root': root, 'ann_file': 'train.json', 'data_prefix': {'img': 'train'}}
        cfg = {'work_dir': root, 'train_dataloader': {'batch_size': 2, 'dataset': dataset}, 'val_dataloader': None}
        if rank == 2 and case.name == 'config':
            cfg['train_dataloader']['batch_size'] = 4
            cfg['seed'] = 1
        try:
            checks.check_ranks(Config(cfg), ['train_dataloader', 'val_dataloader'])
            found[case.name] = 'all equal'
        except ValueError as error:
            found[case.name] = str(error).replace(f'{case.parent}/', '')
    return found


@pytest.fixture(scope='module')
def messages(tmp_path_factory) -> dict[str, str]:
    """Run all cases in one start of three ranks; case -> the message of every rank."""
    folder = tmp_path_factory.mktemp('nodes')
    cases = [folder / name for name in ('copies', 'config', 'content', 'missing_0', 'missing_2')]
    for case in cases:
        for rank in range(3):
            (case / f'{rank}' / 'train').mkdir(parents=True)
            (case / f'{rank}' / 'train.json').write_text('{}')
            (case / f'{rank}' / 'train' / 'a.jpg').touch()
    (folder / 'content' / '2' / 'train.json').write_text('[]')
    (folder / 'content' / '2' / 'train' / 'b.jpg').touch()
    for rank in (0, 2):
        (folder / f'missing_{rank}' / f'{rank}' / 'train.json').unlink()
    first, *others = run_ranks(messages_of, 3, folder / 'ranks', cases)
    assert all(other == first for other in others)  # every rank ends with the same line
    return first


def test_copies_of_the_data_in_other_places_are_equal(messages):
    assert messages['copies'] == 'all equal'


def test_another_config_names_the_keys(messages):
    expected = 'rank 2 (host node2) differs from rank 0 (host node0): train_dataloader.batch_size is 4, not 2, '
    assert messages['config'] == f'{expected}seed is 1, not missing'


def test_other_data_names_the_file_and_the_folder(messages):
    old, new = (hashlib.sha256(text).hexdigest()[:8] for text in (b'{}', b'[]'))
    assert messages['content'] == (
        'rank 2 (host node2) differs from rank 0 (host node0): annotation file train.json of train_dataloader is '
        f'2 bytes with SHA-256 {new}, not 2 bytes with SHA-256 {old}, number of files in train of train_dataloader is '
        '2, not 1'
    )


@pytest.mark.parametrize('rank', [0, 2])
def test_missing_data_ends_all_ranks(messages, rank):
    place = f'missing_{rank}/{rank}/train.json'
    expected = f"rank {rank} (host node{rank}): [Errno 2] No such file or directory: '{place}'"
    assert messages[f'missing_{rank}'] == expected
