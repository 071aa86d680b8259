"""A study of Optuna whose trials are trainings of one config with other values."""

import csv
import gc
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_errors import one_line
from mmyolo_ext.apis.start import turn_on_amp
from mmyolo_ext.engine.stopping import StopTraining
from mmyolo_ext.export.runtime import need
from mmyolo_ext.tuning.space import encode, read_space, resolve_space, value_at

if TYPE_CHECKING:
    import optuna

PRUNERS = ('median', 'hyperband', 'none')
HEARTBEAT, GRACE = 10, 30  # seconds between heartbeats; without one for this long a trial counts as dead
STARTUP_TRIALS = 5  # sampled at random (the first is the config itself), before the sampler models the results


class Tuner:
    """Search for values of config keys that raise a validation metric.

    Trial 0 is the config as it is. Trials live in Optuna's storage: the same command, in the same work dir or with the
    same storage URL, continues a study; on several terminals or machines at once it shares one. A trial whose process
    dies stops sending heartbeats and is retried from its last checkpoint.

    Args:
        config: Config file.
        space: File with the search space, see :mod:`mmyolo_ext.tuning.space`.
        work_dir: Folder of the study; ``trial_*`` below it are the work dirs of the trainings.
        metric: Validation metric; None for the one of ``CheckpointHook.save_best``, else ``coco/bbox_mAP``.
        maximize: Whether a larger metric is better.
        epochs: Length of each training; None for the config's.
        seed: Seed of the trainings and of the sampler.
        pruner: ``'median'``, ``'hyperband'`` or ``'none'``.
        storage: URL of a database (``sqlite:///...``, ``postgresql://...``) or path of a journal file; None for
            ``study.db`` in the work dir. Journal files suit network file systems, but have no heartbeats.
        cfg_options: Options for every training, as for ``tools/train.py``.
        amp: Whether to train in mixed precision.

    Raises:
        ValueError: Optuna is missing, the config or the space is faulty, or the study belongs to other settings.
    """

    def __init__(
        self,
        config: str | Path,
        space: str | Path,
        work_dir: str | Path,
        metric: str | None = None,
        maximize: bool = True,
        epochs: int | None = None,
        seed: int = 0,
        pruner: str = 'median',
        storage: str | None = None,
        cfg_options: dict | None = None,
        amp: bool = False,
    ) -> None:
        self.optuna = need('optuna', "pip install 'optuna>=5'")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        warnings.simplefilter('ignore', self.optuna.exceptions.ExperimentalWarning)  # heartbeat and retry
        self._retry = self.optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=3)
        self.config, self.work_dir, self.amp = Path(config), Path(work_dir), amp
        self.options = {**(cfg_options or {}), 'randomness.seed': seed, **({'max_epochs': epochs} if epochs else {})}
        cfg = load_config(config, self.options)
        missing = [key for key in ('train_cfg', 'val_dataloader', 'val_evaluator') if not cfg.get(key)]
        if missing:
            raise ValueError(f'{config} has no {", ".join(missing)}: tuning needs a config that trains and validates')
        checkpoint = cfg.get('default_hooks', {}).get('checkpoint') or {}
        saved = checkpoint.get('save_best')
        self.metric = metric or (saved if isinstance(saved, str) and saved != 'auto' else 'coco/bbox_mAP')
        if checkpoint:
            rule = 'greater' if maximize else 'less'
            keep = {'save_best': self.metric, 'rule': rule, 'max_keep_ckpts': 2}
            self.options |= {f'default_hooks.checkpoint.{key}': value for key, value in keep.items()}
        self.parameters, self.missing = resolve_space(read_space(space), cfg)
        for parameter in self.parameters:
            if parameter.key in self.options:
                raise ValueError(f'{parameter.key!r} is both in the space and in the options: remove one')
        self.epochs = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.get('max_iters')
        self.val_interval = cfg.train_cfg.get('val_interval', 1)
        self.study = self._open(storage, maximize, seed, pruner)
        self._check_same_study(cfg)

    def run(self, trials: int, hours: float | None = None) -> None:
        """Run trials until the study has ``trials`` finished ones, or the time is over.

        Raises:
            ValueError: The config as it is (trial 0) cannot be trained.
            KeyboardInterrupt: The running trial is queued again first.
        """
        if self._num_finished() < trials:
            seconds = None if hours is None else hours * 3600
            self.study.optimize(
                self._objective,
                timeout=seconds,
                catch=(Exception,),
                callbacks=[self._after_trial, lambda study, _: self._num_finished() >= trials and study.stop()],
            )

    def write(self) -> list[Path]:
        """Write ``trials.csv``, ``best.py`` and the plots into the work dir, and return their paths."""
        files = [self._write_table()]
        best = self.best
        if best is not None and best.number > 0:
            values = {p.key: p.decode(best.params[p.key]) for p in self.parameters}
            files.append(self.work_dir / 'best.py')
            self._trial_config(values, options={}).dump(files[-1])
        return [*files, *self._plot()]

    def _write_table(self) -> Path:
        table = self.work_dir / 'trials.csv'
        with table.open('w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file, lineterminator='\n')
            keys = [parameter.key for parameter in self.parameters]
            writer.writerow(['trial', 'state', self.metric, 'epochs', 'seconds', *keys, 'error'])
            for trial in self.study.trials:
                seconds = trial.duration.total_seconds() if trial.duration else 0
                values = [trial.params.get(key, '') for key in keys]
                row = [trial.number, trial.state.name, trial.value, trial.last_step, f'{seconds:.0f}', *values]
                writer.writerow([*row, trial.user_attrs.get('error', '')])
        return table

    @property
    def best(self) -> 'optuna.trial.FrozenTrial | None':
        """The best completed trial."""
        done = self.study.get_trials(states=[self.optuna.trial.TrialState.COMPLETE])
        return self.study.best_trial if done else None

    def _open(self, storage: str | None, maximize: bool, seed: int, pruner: str) -> 'optuna.Study':
        optuna = self.optuna
        self.work_dir.mkdir(parents=True, exist_ok=True)
        url = storage or f'sqlite:///{self.work_dir.resolve()}/study.db'
        if '://' in url:
            stale = {'heartbeat_interval': HEARTBEAT, 'grace_period': GRACE}
            backend = optuna.storages.RDBStorage(url, **stale, heartbeat_stale_trial_callback=self._retry)
        else:
            backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(url))
        warmup = max(math.ceil(self.epochs / 3), 2 * self.val_interval)
        pruners = {
            'median': optuna.pruners.MedianPruner(4, warmup, n_min_trials=4),
            'hyperband': optuna.pruners.HyperbandPruner(min_resource=self.val_interval, max_resource=self.epochs),
            'none': optuna.pruners.NopPruner(),
        }
        study = optuna.create_study(
            storage=backend,
            study_name=self.config.stem,
            direction='maximize' if maximize else 'minimize',
            load_if_exists=True,
            pruner=pruners[pruner],
        )
        self.seed = seed
        return study

    def _check_same_study(self, cfg: Config) -> None:
        """Store what the study belongs to, or compare with what is stored."""
        left_out = ('work_dir', 'overridden')  # the settings that ``overridden`` names are compared themselves
        settings = {key: value for key, value in _flat(cfg.to_dict()).items() if key.split('.')[0] not in left_out}
        settings |= {f'space {p.key}': repr(p.distribution) for p in self.parameters}
        settings |= {'metric': self.metric, 'amp': self.amp}
        stored = self.study.user_attrs.get('settings')
        if stored is None:
            self.study.set_user_attr('settings', settings)
            return
        changed = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
        if changed:
            shown = '; '.join(f'{key} was {stored.get(key)}, is {settings.get(key)}' for key in sorted(changed)[:3])
            raise ValueError(f'the study in {self.work_dir} has other settings: {shown}; choose another --work-dir')

    def _trial_config(self, values: dict[str, Any], options: dict | None = None) -> Config:
        """Return the config with these values; ``options`` replace those of every training."""
        settings = dict(self.options if options is None else options)
        for parameter in self.parameters:
            settings |= dict.fromkeys(parameter.options, values[parameter.key])
        cfg = load_config(self.config, settings)
        for parameter in self.parameters:
            for option in parameter.options:
                place = tuple(int(step) if step.isdigit() else step for step in option.split('.'))
                if len(place) > 1 and value_at(cfg._cfg_dict, place) != values[parameter.key]:
                    raise ValueError(
                        f'setting {parameter.key!r} has no effect, since a shortcut of the config (batch_size, '
                        'input_size, ...) sets it afterwards: search the shortcut instead'
                    )
        return cfg

    def _objective(self, trial: 'optuna.Trial') -> float:
        # by the number of the trial, so that processes which share the study propose different values
        seed = self.seed + trial.number
        sampler = self.optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)
        if trial.number == 0:
            current = {p.key: encode(p.current) for p in self.parameters}
            sampler = self.optuna.samplers.PartialFixedSampler(current, sampler)
        self.study.sampler = sampler
        original = self._retry.retried_trial_number(self.study.trials[trial.number])
        folder = self.work_dir / f'trial_{trial.number if original is None else original:03}'
        trial.set_user_attr('folder', folder.name)
        report = ReportHook(trial, self.metric, self.study.direction.name == 'MAXIMIZE')
        try:
            self._train({p.key: p.suggest(trial) for p in self.parameters}, folder, report)
        except Exception as error:
            trial.set_user_attr('error', one_line(error))
            raise
        except (KeyboardInterrupt, StopTraining) as error:
            self._retry(self.study, self.study.trials[trial.number])
            raise KeyboardInterrupt from error  # the only one that Optuna takes for an interruption
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if report.best is None:
            trial.set_user_attr('error', f'validation gave no finite {self.metric}')
            return math.nan  # which Optuna counts as failed
        return report.best

    def _train(self, values: dict[str, Any], folder: Path, report: 'ReportHook') -> None:
        cfg = self._trial_config(values)
        cfg.work_dir, cfg.experiment_name = str(folder), f'{self.config.stem}_{folder.name}_{report.trial.number}'
        cfg.resume = any(folder.glob('*.pth'))
        if self.amp:
            turn_on_amp(cfg)
        cfg.setdefault('runner_type', 'mmyolo_ext.Runner')
        cfg.get('default_hooks', {}).pop('report', None)  # it would take longer than a short trial
        runner = RUNNERS.build(cfg)
        runner.register_hook(report, 'LOWEST')
        runner.train()

    def _after_trial(self, study: 'optuna.Study', trial: 'optuna.trial.FrozenTrial') -> None:
        """Print the result and delete the checkpoints of all finished trials but the best."""
        value = '' if trial.value is None else f' {self.metric} {trial.value:.4f}'
        print(f'trial {trial.number}: {trial.state.name.lower()}{value}', flush=True)
        kept = [one for one in study.trials if not one.state.is_finished()] + ([self.best] if self.best else [])
        kept = {one.user_attrs.get('folder') for one in kept}
        for file in self.work_dir.glob('trial_*/*.pth'):
            if file.parent.name not in kept:
                file.unlink()
        self._write_table()
        if trial.number == 0 and trial.state.name == 'FAIL':
            raise ValueError(f'the config as it is cannot be trained: {trial.user_attrs.get("error", "")}')

    def _num_finished(self) -> int:
        """Count finished trials; one that was retried counts once."""
        return sum(trial.state.is_finished() - ('failed_trial' in trial.system_attrs) for trial in self.study.trials)

    def _plot(self) -> list[Path]:
        """Draw Optuna's own plots; those that need more trials are left out."""
        need('matplotlib', 'pip install matplotlib')
        from optuna.visualization import matplotlib as plots

        evaluator = self.optuna.importance.PedAnovaImportanceEvaluator()
        draw = {
            'history': lambda: plots.plot_optimization_history(self.study, target_name=self.metric),
            'slices': lambda: plots.plot_slice(self.study, target_name=self.metric),
            'epochs': lambda: plots.plot_intermediate_values(self.study),
            'importance': lambda: plots.plot_param_importances(self.study, evaluator=evaluator),
        }
        files = []
        for name, plot in draw.items():
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                try:
                    axes = plot()
                except (ValueError, RuntimeError):  # too few trials, or one value only
                    continue
            figure = axes.figure if hasattr(axes, 'figure') else axes.flat[0].figure
            files.append(self.work_dir / f'{name}.png')
            figure.savefig(files[-1], dpi=120, bbox_inches='tight')
            figure.clear()
        return files


class ReportHook(Hook):
    """Report validation results to a trial, and stop the training where the pruner says so.

    Args:
        trial: Optuna's trial.
        metric: Name of the validation metric.
        maximize: Whether a larger metric is better.

    Attributes:
        best: Best finite value so far, None without any.
    """

    def __init__(self, trial: 'optuna.Trial', metric: str, maximize: bool) -> None:
        self.trial, self.metric, self.maximize = trial, metric, maximize
        self.best: float | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.metric not in (metrics or {}):
            raise ValueError(f'validation reports no {self.metric!r}: --metric must be one of {sorted(metrics or {})}')
        value = float(metrics[self.metric])
        if not math.isfinite(value):
            return
        if self.best is None or (value > self.best) == self.maximize:
            self.best = value
        self.trial.report(value, runner.epoch)
        if self.trial.should_prune():
            import optuna

            raise optuna.TrialPruned(f'pruned after epoch {runner.epoch}')


def _flat(node: Any, name: str = '') -> dict[str, str]:
    """Return every leaf of nested dicts and lists by its dotted key, as text."""
    if not isinstance(node, (dict, list, tuple)) or not node:
        return {name: repr(node)}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    flat = {}
    for step, value in items:
        flat |= _flat(value, f'{name}.{step}' if name else f'{step}')
    return flat
