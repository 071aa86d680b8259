"""What mmcv reports about how its ops were compiled."""

SUPPLIED = 'not compiled, supplied by mmyolo_ext'


def get_compiler_version() -> str:
    """For mmengine's report of the environment."""
    return SUPPLIED


def get_compiling_cuda_version() -> str:
    """See :func:`get_compiler_version`."""
    return SUPPLIED
