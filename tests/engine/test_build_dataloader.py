"""Dataloaders that the runner builds: what torch or an empty epoch would make of a setting that users type."""

import pytest

from mmyolo_ext.engine.runner import Runner

LOADER = {
    'batch_size': 2,
    'num_workers': 0,
    'dataset': [1, 2, 3],
    'sampler': {'type': 'DefaultSampler', 'shuffle': False},
}


def test_settings_of_workers_do_not_matter_without_workers():
    loader = Runner.build_dataloader({**LOADER, 'persistent_workers': True, 'prefetch_factor': 4}, seed=0)
    assert list(loader) == [[1, 2], [3]]


def test_a_batch_larger_than_the_dataset_is_an_error_if_it_would_be_dropped():
    with pytest.raises(ValueError, match=r'batch_size=4 is more than the 3 images'):
        Runner.build_dataloader({**LOADER, 'batch_size': 4, 'drop_last': True}, seed=0)
    assert list(Runner.build_dataloader({**LOADER, 'batch_size': 4}, seed=0)) == [[1, 2, 3]]
