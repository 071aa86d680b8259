"""What mmcv reports about how its ops were compiled."""

SUPPLIED = 'not compiled, supplied by mmyolo_ext'


def get_compiler_version() -> str:
    return SUPPLIED


def get_compiling_cuda_version() -> str:
    return SUPPLIED
