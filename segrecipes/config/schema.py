"""The keys of a run and their defaults."""

from dataclasses import dataclass, field
from typing import Any

from segrecipes.models.spec import NetworkSpec

NOT_SET: Any = '???'  # OmegaConf's


@dataclass(frozen=True)
class OhemConfig:
    """Online hard example mining: which pixels the cross entropy and the focal loss take."""

    thresh: float = 0.7  # those whose right class is less probable
    min_kept: int = 100_000  # and as many of each image at least


@dataclass(frozen=True)
class ModelConfig(NetworkSpec):
    """The network, and how it is trained."""

    num_classes: int = NOT_SET  # the dataset's
    in_channels: int = NOT_SET  # the dataset's
    backbone_weights: str | None = None
    auxiliary_weight: float = 0.0
    sync_bn: bool = True
    freeze: list[str] = field(default_factory=list)  # parts that are not trained, such as backbone, backbone.layer1
    cross_entropy_weight: float = 0.375
    dice_weight: float = 1.125
    dice_per: str = 'batch'  # or image: the same loss whatever the microbatch
    loss: dict[str, float] = field(default_factory=dict)  # weights of cross_entropy, dice, focal, lovasz
    focal_gamma: float = 2.0
    class_weights: Any = None  # of cross entropy and focal loss: inverse, median_frequency, or a number a class
    ohem: OhemConfig | None = None

    @property
    def loss_weights(self) -> dict[str, float]:
        """Of every loss; ``loss.cross_entropy`` and ``loss.dice`` are other names of the keys from before it."""
        weights = {'cross_entropy': self.cross_entropy_weight, 'dice': self.dice_weight, 'focal': 0.0, 'lovasz': 0.0}
        return weights | self.loss


@dataclass
class DatasetConfig:
    name: str | None = None  # a row of datasets.table.DATASETS, or a dataset.yaml; None: that of path, else ade20k
    is_streaming: bool = False
    path: str | None = NOT_SET
    local: str | None = None
    base_size: int = 512
    min_resize_scale: float = 0.5
    max_resize_scale: float = 2.0
    keep_ratio: bool = False
    final_size: int = 512
    max_class_share: float = 0.75  # a crop with more of one class is drawn again
    flip_probability: float = 0.5
    vertical_flip_probability: float = 0.0
    right_angle_turns: bool = False
    rotation: float = 0.0  # degrees either way
    brightness: float = 32 / 255
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18 / 255
    blur_probability: float = 0.0
    blur_sigma: float = 2.0  # pixels, at most
    albumentations: list[Any] = field(default_factory=list)  # further transforms, such as [{name: CLAHE, p: 0.2}]
    ignore_background: bool = True
    pad_to_square: bool = False  # before all else, on both sides; what is added is ignored
    window_stride: int | None = None  # of eval_protocol=slide, in pixels; None: two thirds of final_size
    batch_size: int = 128  # global: over all ranks
    drop_last: bool = True
    shuffle: bool = True
    # Dataloader
    num_workers: int | None = None  # per rank; None: the node's cores shared out, at most 8
    prefetch_factor: int = 2
    persistent_workers: bool = True
    # Streaming
    predownload: int | None = None  # samples
    cache_limit: str | None = None  # such as 20gb
    num_canonical_nodes: int | None = None
    shuffle_algo: str = 'py1e'
    download_retry: int = 2
    download_timeout: float = 60  # seconds
    validate_hash: str | None = None


@dataclass
class EvalDatasetConfig(DatasetConfig):
    drop_last: bool = False  # accepted for upstream's yamls; every image is scored whatever it says
    shuffle: bool = False


Arguments = dict[str, Any]
# Keys of ``optimizer`` that are of its groups, and no argument of its class
GROUPING = ('lr_factors', 'decay_norms_and_biases')


@dataclass
class Config:
    """One run. Names and meanings are those of MosaicML's DeepLabV3+ example where it has them."""

    run_name: str | None = None  # None: of the yaml and the dataset, and numbered where there is a run of that name
    is_train: bool = True
    seed: int = 17
    max_duration: str = '128ep'
    eval_interval: str = '1ep'
    eval_protocol: str = 'mosaic-512sq'  # a row of evaluation.table.PROTOCOLS
    device_train_microbatch_size: Any = 'auto'  # int, 'auto', or None for the whole batch
    precision: str = 'auto'
    compile: Any = False  # or a mapping of torch.compile's options, such as {mode: max-autotune-no-cudagraphs}
    deterministic_mode: bool = False  # the same bits from run to run on a GPU too, where it is slower
    train_metrics: bool = False  # costs a pass over the logits each batch

    model: ModelConfig = field(default_factory=ModelConfig)
    train_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    eval_dataset: EvalDatasetConfig = field(default_factory=EvalDatasetConfig)

    optimizer: Arguments = field(  # and lr_factors: {backbone: 0.1}, decay_norms_and_biases: false
        default_factory=lambda: {'name': 'decoupled_sgdw', 'lr': 0.08, 'momentum': 0.9, 'weight_decay': 5.0e-5}
    )
    scheduler: Arguments | None = field(default_factory=lambda: {'name': 'cosine_annealing'})
    algorithms: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(
        default_factory=lambda: {'speed_monitor': {'window_size': 50}, 'lr_monitor': {}, 'memory_monitor': {}}
    )
    loggers: dict[str, Any] = field(default_factory=lambda: {'progress_bar': {}})
    recipe_name: str | None = None  # a file of yamls/recipes, merged over the yaml
    dataset: str | None = None  # a file of yamls/datasets, merged under the yaml
    strategy: str = 'ddp'  # a row of training.strategy.STRATEGIES

    save_folder: str | None = 'runs/{run_name}'  # None saves nothing
    save_interval: str = '1ep'
    save_num_checkpoints_to_keep: int = 1  # -1: all
    save_overwrite: bool = False
    save_best: bool = True
    load_path: str | None = None
    load_weights_only: bool = False
    trust_checkpoint: bool = False  # load a file that would run code of its own
    autoresume: bool = False
    python_log_level: str | None = None
