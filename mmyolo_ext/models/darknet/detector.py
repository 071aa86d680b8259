"""A detector as a Darknet ``.cfg`` file describes it."""

from collections.abc import Sequence
from pathlib import Path

from mmyolo_ext.models.darknet.graph import Graph, read_graph
from mmyolo_ext.models.darknet.network import DarknetNetwork
from mmyolo_ext.models.darknet.options import NORMALIZATIONS
from mmyolo_ext.models.darknet.weights import read_weights, write_weights
from mmyolo_ext.models.detectors.yolo_detector import YOLODetector
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class DarknetCfg(YOLODetector):
    """The network of a ``.cfg`` file, trained and read out by :class:`YOLOv3Head`.

    The file gives layers, priors, classes and the size of the input; how it is trained is said in our config, and the
    training fields of the file are passed over. Anything else that is not known, a bad value, a reference to nothing
    and maps that do not fit raise ValueError with the file's line: see :mod:`.vocabulary`, :mod:`.options` and
    :mod:`.graph`. Levels are in the order of the file's [yolo] sections.

    The 1x1 convolution before each [yolo] is the head's: its biases start at the rate of objects, and
    ``bbox_head=dict(num_classes=...)`` trains the file's network on another data set without editing the file.

    Args:
        cfg_file: path of the file.
        bbox_head: entries that take the place of those the file gives, or another head of ours by its ``type``.
        weights_normalization: of each weighted [shortcut] of which the file does not say it: ``'sigmoid'``,
            ``'sigmoid_mean'`` (the YOLOv3 code of 2020), ``'relu'``, ``'softmax'`` or ``'none'`` (Darknet itself);
            see :class:`.blocks.ShortcutLayer`.
        weights: a ``.weights`` file to start from, or the first part of one (``.conv.<number>``).
        norm_cfg: normalization layers; Darknet's batch norm by default.
        norm_eval: keep them in eval mode.
        train_cfg: goes to the head; so does the next.
        test_cfg: see there.
        data_preprocessor: by default RGB from 0 to 1, padded in grey to a multiple of the largest stride.
        frozen_parts: see :class:`YOLODetector`.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: a fault in the file.
        FileNotFoundError: no such file.
    """

    def __init__(
        self,
        cfg_file: str | Path,
        bbox_head: dict | None = None,
        weights: str | Path | None = None,
        weights_normalization: str = 'sigmoid',
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        frozen_parts: str | Sequence[str] = (),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if weights_normalization not in NORMALIZATIONS:
            raise ValueError(f'weights_normalization must be one of {NORMALIZATIONS}, got {weights_normalization!r}')
        graph = read_graph(cfg_file, weights_normalization)
        super().__init__(
            backbone={'type': DarknetNetwork, 'graph': graph, 'norm_cfg': norm_cfg, 'norm_eval': norm_eval},
            bbox_head={**head_of(graph), **(bbox_head or {})},
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor or preprocessor_of(graph),
            frozen_parts=frozen_parts,
            init_cfg=init_cfg,
        )
        self.graph = graph
        self.weights = weights

    def init_weights(self) -> None:
        """Start all weights, then take over those of the ``.weights`` file, if there is one."""
        first_time = not self.is_init
        super().init_weights()
        if self.weights is not None and first_time:
            self.load_weights(self.weights)

    def load_weights(self, path: str | Path, num_layers: int | None = None) -> int:
        """Fill the detector from a ``.weights`` file; see :func:`.weights.read_weights`."""
        return read_weights(path, self.graph, self.backbone, self.bbox_head.convs_pred, num_layers)

    def save_weights(self, path: str | Path, seen: int = 0) -> None:
        """Write the detector as a ``.weights`` file; see :func:`.weights.write_weights`."""
        write_weights(path, self.graph, self.backbone, self.bbox_head.convs_pred, seen)


def head_of(graph: Graph) -> dict:
    """Config of the head that a file describes."""
    return {
        'type': 'mmyolo_ext.YOLOv3Head',
        'num_classes': graph.levels[0].yolo.options.classes,
        'in_channels': 'auto',
        'input_size': (graph.picture.height, graph.picture.width),
        'prior_generator': {
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': [list(level.yolo.options.priors_wh) for level in graph.levels],
            'strides': [level.stride for level in graph.levels],
        },
    }


def preprocessor_of(graph: Graph) -> dict:
    """Config of the preprocessor for pictures as Darknet sees them: RGB from 0 to 1."""
    channels = graph.picture.channels
    return {
        'type': 'mmyolo_ext.DataPreprocessor',
        'mean': [0] * channels,
        'std': [255] * channels,
        'bgr_to_rgb': channels == 3,
        'pad_size_divisor': max(level.stride for level in graph.levels),
        'pad_value': 114 / 255,
    }
