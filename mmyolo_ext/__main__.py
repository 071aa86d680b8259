"""``python -m mmyolo_ext`` runs the command ``mmyolo-ext``."""

from mmyolo_ext.cli.main import main

main()
