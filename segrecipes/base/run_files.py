"""Names that a run writes under and others look for: files in its folder, and metrics."""

CONFIG = 'config.yaml'
HISTORY = 'history.jsonl'
RECORD = 'run.json'
REPORT = 'report.html'

# The last evaluation's folder in that of a run, and what is in it
EVALUATION = 'evaluation'
SCORES = 'scores.json'
SCORES_TABLE = 'scores.csv'
IMAGE_SCORES = 'image_scores.csv'
IMAGES = 'images.json'
PICTURES = 'images'
PREDICTIONS = 'predictions.png'

BEST_CHECKPOINT = 'best-rank{rank}.pt'
LATEST_CHECKPOINT = 'latest-rank{rank}.pt'  # as Composer calls it

# Of an evaluation, whose protocol stands in brackets: metrics/eval/mIoU[ade20k-ss]
EVAL_LABEL = 'eval'
MEAN_IOU = 'mIoU'
CLASS_IOUS = 'classes'  # of a table: class, IoU in percent


def metric(name: str, protocol: object) -> str:
    """The name under which an evaluation's figure is logged."""
    return f'metrics/{EVAL_LABEL}/{MEAN_IOU if name == "mean_iou" else name}[{protocol}]'


def class_table(protocol: object) -> str:
    """The name of an evaluation's table of classes."""
    return f'{EVAL_LABEL}/{CLASS_IOUS}[{protocol}]'
