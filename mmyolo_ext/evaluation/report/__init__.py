"""Reports of runs."""

from .write import read_report, write_report

__all__ = ['read_report', 'write_report']
