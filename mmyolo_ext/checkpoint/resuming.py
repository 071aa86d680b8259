"""Find the checkpoint to resume from, read only known data of it, and compare its run with this one."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmyolo_ext.checkpoint.safe_load import non_finite_names, read_checkpoint
from mmyolo_ext.checkpoint.writing import (
    NUMBERED,
    CheckpointFolder,
    checkpoint_names,
    digest_of,
    is_plain_name,
    moment_of,
    plain,
)

STATES = ('state_dict', 'ema_state_dict', 'optimizer')
SHOWN = 3


def find_newest(
    folder: str | Path, warn: Callable[[str], None], check: Callable[[str, Mapping[str, Any]], None] | None = None
) -> tuple[str, dict[str, Any]] | None:
    """Return path and content of the newest checkpoint that is complete, finite and can be resumed.

    Args:
        folder: That of the checkpoints; where none lie in it, there is nothing to resume.
        warn: Takes one line for each newer checkpoint that is passed over.
        check: Gets name and ``meta`` of a checkpoint, and raises ValueError for one to pass over.

    Raises:
        ValueError: Checkpoints lie there, but none can be used.
    """
    names = checkpoint_names(folder)
    if not names:
        return None
    entries = CheckpointFolder(folder).entries
    reasons = {}
    unknown = {}  # content of files that the manifest does not know, which must be read to be put in order
    order = []
    for name in names:
        facts = entries.get(name, {})
        if facts.get('kind') == 'best' or name.startswith('best_'):
            continue
        try:
            if 'epoch' not in facts:
                unknown[name] = read_resumable(Path(folder) / name)
                facts = known_meta(unknown[name]['meta'])
            order.append((moment_of(facts), name))
        except ValueError as error:
            reasons[name] = str(error)
    found = meta = None
    for _, name in sorted(order, reverse=True):
        try:
            content = unknown[name] if name in unknown else read_resumable(Path(folder) / name, entries[name])
            if check:
                check(name, content['meta'])
            found, meta = (str(Path(folder) / name), content), known_meta(content['meta'])
            break
        except ValueError as error:
            reasons[name] = str(error)
    for key, reason in reasons.items():
        if meta is None or is_newer(key, entries, meta):
            warn(f'Not resumed from: {reason}')
    if found is None:
        raise ValueError(
            f'{folder} holds checkpoints ({_some(names)}) but none to resume from: '
            + (next(iter(reversed(reasons.values()))) if reasons else 'the best ones are weights alone')
            + '. Start anew without --resume (they are moved into a subfolder), or from weights by load_from'
        )
    return found


def read_resumable(path: str | Path, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a checkpoint that a run can resume from; nothing in it is executed.

    Args:
        path: File.
        facts: Its entry in the manifest, whose SHA-256 is compared.

    Raises:
        ValueError: It is missing, cut short or damaged, holds NaN or infinity, or weights alone.
    """
    path = Path(path)
    if facts and 'sha256' in facts and path.is_file() and digest_of(path) != facts['sha256']:
        size, full = path.stat().st_size, facts.get('size')
        damage = f'has {size:,} of {full:,} bytes' if size != full else 'differs from what was written (SHA-256)'
        raise ValueError(f'the checkpoint {path} {damage}')
    content = read_checkpoint(path)
    if not facts or 'sha256' not in facts:
        _check_sums(path)
    meta = content.get('meta') if isinstance(content, dict) else None
    if not isinstance(meta, Mapping) or not all(_is_count(meta.get(key)) for key in ('epoch', 'iter')):
        raise ValueError(
            f'the checkpoint {path} holds weights alone: start from it by load_from, it cannot be resumed'
        )
    if not isinstance(content.get('optimizer'), Mapping):
        newest = _newest_numbered(path)
        raise ValueError(
            f'the checkpoint {path} has no optimizer state, as best_* have none, so it cannot be resumed: '
            + (f'resume from {newest}' if newest else 'start from its weights by load_from')
        )
    for key in STATES:
        bad = non_finite_names(content.get(key) or {})
        if bad:
            raise ValueError(f'the checkpoint {path} holds NaN or infinity in {key}: {_some(bad)}')
    return content


def known_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run takes over of ``meta``: counts, seed, class names, and the facts that are compared.

    Added is ``batch``, the completed iterations of the epoch after the completed ones.
    """
    known: dict[str, Any] = {key: int(meta[key]) for key in ('epoch', 'iter')}
    if _is_count(meta.get('seed')):
        known['seed'] = int(meta['seed'])
    dataset = meta.get('dataset_meta')
    if isinstance(dataset, Mapping):
        classes = next((value for key, value in dataset.items() if str(key).lower() == 'classes'), None)
        if isinstance(classes, (list, tuple)):
            known['classes'] = [str(name) for name in classes]
    if isinstance(meta.get('run'), Mapping):
        known['run'] = plain(meta['run'])
    length = known['run'].get('epoch_length', 0) if 'run' in known else known['iter'] // max(known['epoch'], 1)
    known['batch'] = known['iter'] - known['epoch'] * (length if _is_count(length) else 0)
    return known


def known_hub(hub: Any) -> tuple[dict[str, HistoryBuffer], dict[str, Any]]:
    """Return what a run takes over of ``message_hub``: histories of numbers, and the best scores so far.

    Paths and lists of files to delete, which MMEngine keeps there, are not taken.

    Returns:
        Histories by name; ``best_score*`` and, as plain file names, ``best_ckpt*``.
    """
    hub = hub if isinstance(hub, Mapping) else {}
    scalars, info = (
        {key: value for key, value in part.items() if isinstance(key, str)} if isinstance(part, Mapping) else {}
        for part in (hub.get('log_scalars'), hub.get('runtime_info'))
    )
    found = {name: history_of(value) for name, value in scalars.items()}
    best: dict[str, Any] = {}
    for key, value in info.items():
        if key.startswith('best_score') and isinstance(value, (int, float)) and math.isfinite(value):
            best[key] = float(value)
        elif key.startswith('best_ckpt') and isinstance(value, str):
            match = NUMBERED.fullmatch(value.replace('\\', '/').rpartition('/')[2])
            if match and match['best'] and is_plain_name(match[0]):
                best[key] = match[0]
    return {name: history for name, history in found.items() if history is not None}, best


def history_of(value: Any) -> HistoryBuffer | None:
    """Return MMEngine's history from a checkpoint, stored as tensors or, by earlier versions, as it is."""
    if isinstance(value, HistoryBuffer):
        logs, counts = value.data
        return HistoryBuffer(list(logs), list(counts), value.max_length)
    if not isinstance(value, Mapping):
        return None
    logs, counts, length = (value.get(key) for key in ('log', 'count', 'max_length'))
    fits = isinstance(logs, Tensor) and isinstance(counts, Tensor) and logs.dim() == 1 and logs.shape == counts.shape
    if not fits or not _is_count(length) or length < max(len(logs), 1):
        return None
    history = HistoryBuffer(max_length=int(length))
    history._log_history, history._count_history = logs.double().numpy(), counts.double().numpy()
    return history


def is_newer(name: str, entries: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> bool:
    """Return whether a file is of a later moment than that of :func:`known_meta`, by the manifest or by its name."""
    facts = entries.get(name, {})
    if 'epoch' in facts:
        return moment_of(facts) > moment_of(meta)
    match = NUMBERED.fullmatch(name)
    return match is not None and int(match['number']) > meta[match['unit']]


def compare_runs(before: Mapping[str, Any], now: Mapping[str, Any], meta: Mapping[str, Any]) -> list[str]:
    """Compare the facts of a run with those of the checkpoint, and say what is rescaled.

    What changes the length of an epoch can be rescaled between epochs, for schedules count from 0 to their end
    whatever the length; inside an epoch it would repeat or skip images.

    Args:
        before: Facts in the checkpoint; may be incomplete.
        now: Facts of this run.
        meta: That of the checkpoint, by :func:`known_meta`.

    Returns:
        Lines on what differs and is rescaled.

    Raises:
        ValueError: Something differs that cannot be; old and new value are named.
    """
    _compare_classes(before.get('classes'), now.get('classes'))
    for key, place in (('optimizer', 'optim_wrapper.optimizer'), ('schedule', 'param_scheduler')):
        changed = list(_changes(before[key], now[key], place)) if key in before and key in now else []
        if changed:
            raise ValueError(
                f'{"; ".join(changed[:SHOWN])} (in the checkpoint -> in the config): the checkpoint keeps its own '
                'rates and schedule. Set the config back to resume, or start a new training from the weights: '
                'load_from, without --resume'
            )
    longest = 'max_epochs' if now.get('by_epoch') else 'max_iters'
    done = meta['epoch' if now.get('by_epoch') else 'iter']
    if now.get(longest, done) < done:
        raise ValueError(f'the checkpoint has {done} of {longest}={now[longest]} done: set train_cfg.{longest} higher')
    lines = []
    if before.get(longest, now.get(longest)) != now.get(longest):
        lines.append(f'{longest} {before[longest]} -> {now[longest]}: the schedules are stretched to the new length')
    keys = ('batch_size', 'world_size', 'images', 'accumulation', 'epoch_length')
    changed = {key: (before[key], now[key]) for key in keys if key in before and before[key] != now.get(key)}
    if not changed:
        return lines
    diff = ', '.join(f'{TITLES[key]} {old} -> {new}' for key, (old, new) in changed.items())
    back = 'set them back to those of the checkpoint to resume'
    if not now.get('by_epoch'):
        raise ValueError(f'{diff}: a training by iterations cannot be rescaled; {back}')
    length = before.get('epoch_length')
    if not length or meta['iter'] != meta['epoch'] * length:
        raise ValueError(
            f'{diff}: this checkpoint was saved inside an epoch (iteration {meta["iter"]}), so images would be '
            f'repeated or skipped; {back}, or resume from a checkpoint of the end of an epoch (epoch_*.pth)'
        )
    if not now.get('nominal') and _images_per_step(before) != _images_per_step(now):
        raise ValueError(
            f'{diff}: a step would see {_images_per_step(before)} -> {_images_per_step(now)} images, which the '
            f'learning rates in the checkpoint do not fit; {back}, or start a new training from the weights: load_from'
        )
    lines.append(f'{diff}: resumed at the end of epoch {meta["epoch"]}, iterations and schedules are rescaled')
    return lines


TITLES = {
    'batch_size': 'images a batch',
    'world_size': 'processes',
    'images': 'training images',
    'accumulation': 'batches a step',
    'epoch_length': 'iterations an epoch',
}


def _images_per_step(facts: Mapping[str, Any]) -> int | None:
    keys = ('batch_size', 'world_size', 'accumulation')
    return math.prod(facts[key] for key in keys) if all(_is_count(facts.get(key)) for key in keys) else None


def _compare_classes(before: list[str] | None, now: list[str] | None) -> None:
    if before is None or now is None or before == now:
        return
    if len(before) != len(now):
        diff = f'{len(before)} -> {len(now)} classes ({_some(before)} -> {_some(now)})'
    else:
        index = next(index for index, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
        diff = f'class {index} is {before[index]!r} -> {now[index]!r}'
        if sorted(before) == sorted(now):
            diff = f'the classes are in another order ({diff})'
    raise ValueError(
        f'{diff} (in the checkpoint -> in the training data): set class_names to those of the checkpoint, or start a '
        'new training from its weights: load_from, without --resume'
    )


def _changes(before: Any, now: Any, where: str) -> Iterator[str]:
    """Yield the differences of nested plain data as ``key old -> new``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _changes(before.get(key), now.get(key), f'{where}.{key}')
    elif isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(old, new, f'{where}[{index}]')
    elif before != now:
        yield f'{where} {before!r} -> {now!r}'


def _check_sums(path: Path) -> None:
    """Check the checksums inside a file of ``torch.save``; older forms than zip have none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise ValueError(f'the checkpoint {path} is damaged: the checksum of {broken} is wrong')


def _newest_numbered(path: Path) -> Path | None:
    matches = [match for name in checkpoint_names(path.parent) if (match := NUMBERED.fullmatch(name))]
    # epochs before iterations
    found = [(match['unit'], -int(match['number']), match[0]) for match in matches if not match['best']]
    found = [entry for entry in found if entry[2] != path.name]
    return path.with_name(min(found)[2]) if found else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _some(names: list[str]) -> str:
    return ', '.join(map(str, names[:SHOWN])) + (', ...' if len(names) > SHOWN else '')
