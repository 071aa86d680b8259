"""Broken images and annotations end as one line before the first step, or train with a warning."""


def test_the_unbroken_data_set_trains(train):
    run = train()
    assert run.code == 0 and run.error == ''


def test_a_missing_image(data, train):
    (data / 'train' / '000000.jpg').unlink()
    run = train()
    assert run.code == 2 and '000000.jpg: No such file' in run.error
