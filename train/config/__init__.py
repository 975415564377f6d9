"""What a run is made of: nested frozen dataclasses, the source of the command line's help.

A file under `configs/` says only how it differs from these defaults, or from its `base`.
"""

from train.config.data import DataConfig
from train.config.feedback import FeedbackConfig, MirrorConfig, MonitorConfig
from train.config.model import MlpConfig, ModelConfig, ResNetConfig, SmallConvConfig
from train.config.optimizer import OptimizerConfig, ScheduleConfig
from train.config.run import CheckpointConfig, ClusterConfig, FitConfig, TrainingConfig

__all__ = [
    "CheckpointConfig",
    "ClusterConfig",
    "DataConfig",
    "FeedbackConfig",
    "FitConfig",
    "MirrorConfig",
    "MlpConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "ResNetConfig",
    "ScheduleConfig",
    "SmallConvConfig",
    "TrainingConfig",
]
