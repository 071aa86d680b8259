"""Objects followed over the frames of a video, by ByteTrack (Zhang et al., ECCV 2022) of the package trackers."""

from collections.abc import Iterable, Iterator

import numpy as np

from mmyolo_ext.apis.results import Detections
from mmyolo_ext.export.runtime import need

LOW_SCORE = 0.1  # ByteTrack finds hidden objects again by boxes of scores from here
MARGIN = 0.1  # a new object needs this much more than the threshold, as in the paper


def track(found: Iterable[Detections], score_thr: float = 0.25) -> Iterator[Detections]:
    """Yield the detections of successive frames with ``ids``: each object keeps its number.

    A box is first joined to an object by the IoU with its predicted place; an object left over then takes a box of a
    score below ``score_thr``. An object gets its number in its second frame, and is given up 1 s after its last box.
    Numbers start anew with each video; images without a frame number pass as they are.

    Args:
        found: Detections of successive frames, with scores from :data:`LOW_SCORE`.
        score_thr: Boxes with a lower score stay only if they belong to an object.

    Raises:
        ValueError: If the package trackers is not installed.

    Examples:
        >>> for one in track(Detector('best.pth')('film.mp4', score_thr=0.1)):
        ...     print(one.frame, one.ids, one.boxes_xyxy)
    """
    trackers = need('trackers')
    tracker, last = None, 0
    for one in found:
        if one.frame is None:
            yield one.keep(one.scores >= score_thr)
            continue
        if tracker is None or one.frame <= last:
            activation = min(score_thr + MARGIN, (1 + score_thr) / 2)
            tracker = trackers.ByteTrackTracker(
                track_activation_threshold=activation, high_conf_det_threshold=score_thr
            )
        last = one.frame
        boxes = one.to_supervision()
        boxes.data['index'] = np.arange(len(boxes))
        tracked = tracker.update(boxes, timestamp=one.time)
        ids = np.zeros(len(boxes), int)
        if len(tracked):
            ids[tracked.data['index']] = tracked.tracker_id + 1  # -1 stands for none
        kept = (one.scores >= score_thr) | (ids > 0)
        yield one.keep(kept, ids[kept])
