"""One config per verb, and their YAML form. Imports no torch: the command line answers before models load."""

from vbon.config.evaluate import DemoConfig, EvaluateConfig, GenerateConfig, ReportConfig
from vbon.config.integrate import IntegrateConfig
from vbon.config.lab import LabConfig
from vbon.config.pool import CollectConfig, ExportConfig, ImportConfig, InspectConfig, RescoreConfig
from vbon.config.secrets import without_secrets
from vbon.config.sweep import SweepConfig
from vbon.config.train import TrainConfig
from vbon.config.verify import VerifyConfig
from vbon.config.yaml_file import load_yaml, merged_text, read_values

__all__ = [
    "VerifyConfig",
    "CollectConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GenerateConfig",
    "ImportConfig",
    "InspectConfig",
    "IntegrateConfig",
    "LabConfig",
    "ReportConfig",
    "RescoreConfig",
    "SweepConfig",
    "TrainConfig",
    "load_yaml",
    "merged_text",
    "read_values",
    "without_secrets",
]
