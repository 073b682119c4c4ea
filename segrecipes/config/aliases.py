"""What people type for a key, from other packages and from memory."""

from dataclasses import fields, is_dataclass

from segrecipes.config.schema import Config

ALIASES = {
    'amp': 'precision',
    'arch': 'model.architecture',
    'backbone': 'model.backbone_arch',
    'batch': 'train_dataset.batch_size',
    'bs': 'train_dataset.batch_size',
    'checkpoint': 'load_path',
    'classes': 'dataset',
    'crop_size': 'train_dataset.final_size',
    'data': 'dataset',
    'ema': 'algorithms.ema',
    'epochs': 'max_duration',
    'fp16': 'precision',
    'image_size': 'train_dataset.final_size',
    'imgsz': 'train_dataset.final_size',
    'iterations': 'max_duration',
    'learning_rate': 'optimizer.lr',
    'lr': 'optimizer.lr',
    'mixup': 'algorithms.mixup',
    'momentum': 'optimizer.momentum',
    'name': 'run_name',
    'out': 'save_folder',
    'output_dir': 'save_folder',
    'patience': 'callbacks.early_stopper.patience',
    'pretrained': 'model.backbone_weights',
    'project': 'save_folder',
    'protocol': 'eval_protocol',
    'recipe': 'recipe_name',
    'resume': 'autoresume',
    'sam': 'algorithms.sam',
    'save_dir': 'save_folder',
    'size': 'train_dataset.final_size',
    'steps': 'max_duration',
    'tensorboard': 'loggers.tensorboard',
    'wandb': 'loggers.wandb',
    'weight_decay': 'optimizer.weight_decay',
    'weights': 'load_path',
    'workers': 'train_dataset.num_workers',
}
EXAMPLES = {'max_duration': '25ep', 'autoresume': 'true'}  # where another unit or kind of value would be typed


def full_key(typed: str) -> str | None:
    """The key that is meant by one of its own: by its last part, or as others call it."""
    for section in ('train_dataset', 'model'):
        default = getattr(Config(), section)
        if is_dataclass(default) and typed in {field.name for field in fields(default)} - {'name'}:
            return f'{section}.{typed}'
    key = ALIASES.get(typed)
    return f'{key}={EXAMPLES[key]}' if key in EXAMPLES else key
