"""Config of `vbon verify`."""

from dataclasses import dataclass

from vbon.config import types
from vbon.config.fields import check_fields


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Settings of `vbon verify`, which compares a served model with fresh samples of the same model here."""

    model: types.Model
    """Model that should be served: a run, a directory, a hub id or a GGUF file."""
    base_url: str
    """Address of the server, for example http://127.0.0.1:8000/v1."""
    reward: types.RewardSpec
    prompts: types.Prompts
    out: types.Directory
    """Directory of the two pools that are compared. Repeat the command to continue."""
    served_model: str | None = None
    """Name of the model on the server. Default: --model."""
    num_samples: types.Count = 16
    """Samples per prompt of each side. Raise it to find smaller differences."""
    temperature: types.Positive | None = None
    """Sampling temperature. Default: that of the model's generation_config.json."""
    max_new_tokens: types.Count | None = None
    """Longest completion, in tokens. Default: that of the model's generation_config.json."""
    limit: types.PromptLimit | None = None
    concurrency: types.Workers = 8
    """Requests to the server at the same time."""
    device: types.Device = "auto"
    dtype: types.Dtype = "float32"
    seed: types.NonNegative = 0
    """Seed of the samples."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
