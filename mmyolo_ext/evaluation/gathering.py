"""Bring the results of all processes together, each image once."""

from collections.abc import Collection, Sequence
from itertools import chain, zip_longest

from mmengine.dist import all_gather_object

SHOWN = 10  # ids named in an error


def gather_by_image(results: Sequence[tuple], size: int, known: Collection | None, source: str | None) -> list[tuple]:
    """The results of all ranks on every rank, one of each image.

    They travel through the connection of the processes, so no disk has to be shared. Samplers give an image twice to
    even out the ranks: its first result counts.

    Args:
        results: Pairs (ground truth, predictions) of this rank; both are dicts with ``img_id``.
        size: Number of images of the data set.
        known: Image ids of the annotation file, if there is one.
        source: Its path.

    Raises:
        ValueError: On every rank, if there are fewer images than ``size``, or one that is not known.
    """
    by_image = {}
    for result in chain.from_iterable(zip_longest(*all_gather_object(list(results)))):
        if result is not None:
            by_image.setdefault(result[1]['img_id'], result)
    unknown = [] if known is None else [img_id for img_id in by_image if img_id not in known]
    if unknown:
        raise ValueError(
            f'{len(unknown)} evaluated images are not in {source}, among them the ids {unknown[:SHOWN]}: evaluate '
            'against the annotation file of the data set'
        )
    if len(by_image) < size:
        raise ValueError(
            f'{len(by_image)} of {size} images have a result, so they cannot be evaluated. {_missing(by_image, known)}'
        )
    return list(by_image.values())


def _missing(by_image: Collection, known: Collection | None) -> str:
    missing = [] if known is None else [img_id for img_id in known if img_id not in by_image]
    if not missing:
        return 'Is an image id there twice in the data set, or did a process end early?'
    more = ', ...' if len(missing) > SHOWN else ''
    ids = ', '.join(map(str, missing[:SHOWN]))
    return f'Without one are the ids {ids}{more} of the annotation file: the sampler must give each image to a process'
