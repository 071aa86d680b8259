"""Tests here import mmdet's parts, which need the compiled ops or our stand-in for them: that comes first."""

import mmyolo_ext  # noqa: F401
