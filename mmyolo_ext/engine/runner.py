"""The runner of every training and test: MMEngine's, with the guarantees that MMEngine does not give."""

from mmengine.runner import Runner as MMEngineRunner

from mmyolo_ext.registry import RUNNERS


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """MMEngine's ``Runner``; ``runner_type = 'mmyolo_ext.Runner'`` selects it in a config."""
