"""An adapter goes onto the base it was trained on, and no other."""

import json
from pathlib import Path

import pytest

from ft_assets.core.artifact import Artifact, Manifest
from ft_assets.core.errors import FineTuneError
from ft_assets.worker.models import check_base


def artifact(folder: Path, stage: str, **metrics: str) -> Artifact:
    return Artifact(Manifest(stage, "a" * 64, "1", {}, {}, {}, metrics=metrics), folder)


def test_an_adapter_of_another_base_is_refused_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "adapter_info.json").write_text(json.dumps({"base_content": "b" * 64}))
    adapter = artifact(tmp_path, "sft_adapter")
    check_base(artifact(tmp_path, "base_model", content_hash="b" * 64), adapter)
    with pytest.raises(FineTuneError, match=f"trained on base {'b' * 12}, this base is {'c' * 12}"):
        check_base(artifact(tmp_path, "base_model", content_hash="c" * 64), adapter)
