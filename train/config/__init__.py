"""What a run is made of: nested frozen dataclasses, the source of the command line's help.

A file under `configs/` says only how it differs from these defaults, or from its `base`.
"""

from train.config.data import DataConfig
from train.config.feedback import FeedbackConfig, MirrorConfig, MonitorConfig
from train.config.optimizer import OptimizerConfig, ScheduleConfig
from train.config.part import Part
from train.config.run import (
    MAY_DIFFER,
    CheckpointConfig,
    ClusterConfig,
    FitConfig,
    TrainingConfig,
)

__all__ = [
    "MAY_DIFFER",
    "CheckpointConfig",
    "ClusterConfig",
    "DataConfig",
    "FeedbackConfig",
    "FitConfig",
    "MirrorConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "Part",
    "ScheduleConfig",
    "TrainingConfig",
]
