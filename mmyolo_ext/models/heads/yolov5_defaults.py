"""What a YOLOv5 head of three levels is made of, unless its config says otherwise."""

PRIOR_GENERATOR = {
    'type': 'mmdet.YOLOAnchorGenerator',
    'base_sizes': [
        [(10, 13), (16, 30), (33, 23)],
        [(30, 61), (62, 45), (59, 119)],
        [(116, 90), (156, 198), (373, 326)],
    ],
    'strides': [8, 16, 32],
}
BBOX_CODER = {'type': 'mmyolo_ext.YOLOv5BBoxCoder'}
ASSIGNER = {'type': 'mmyolo_ext.YOLOv5Assigner'}
LOSS_CLS = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 0.5}
LOSS_BBOX = {'type': 'mmyolo_ext.IoULoss', 'loss_weight': 0.05}
LOSS_OBJ = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 1.0}
TRAIN_CFG = {'ignore_iof_thr': 0.5}
TEST_CFG = {
    'multi_label': True,
    'nms_pre': 30000,
    'score_thr': 0.001,
    'nms': {'type': 'nms', 'iou_threshold': 0.65},
    'max_per_img': 300,
}
