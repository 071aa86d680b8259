"""What every neck asks of the channels it is given."""

from collections.abc import Sequence


def check_channels(neck: str, in_channels: Sequence[int] | str, out_channels: Sequence[int]) -> None:
    """Raise ValueError unless ``in_channels`` is filled in and there are two levels or more, the same on both sides.

    Args:
        neck: name of the class, for the message.
        in_channels: of the inputs.
        out_channels: of the outputs.
    """
    if isinstance(in_channels, str):
        raise ValueError(
            f'in_channels={in_channels!r} is filled in by mmyolo_ext.YOLODetector only; elsewhere give the channels '
            'of the inputs, shallow to deep'
        )
    if len(in_channels) != len(out_channels) or len(out_channels) < 2:
        raise ValueError(
            f'{neck} needs two levels or more, and one of out_channels for each of in_channels; got in_channels='
            f'{tuple(in_channels)}, out_channels={tuple(out_channels)}. The number of inputs is that of the '
            "backbone's out_indices"
        )
