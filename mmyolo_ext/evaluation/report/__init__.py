"""Reports of runs."""

from mmyolo_ext.evaluation.report.write import read_report, write_report

__all__ = ['read_report', 'write_report']
