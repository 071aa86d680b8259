"""Import the package first: it installs the ops that mmdet needs."""

import mmyolo_ext  # noqa: F401
