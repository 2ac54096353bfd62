from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedser.common.errors import UserError
from fedser.results.rounds import read_rounds


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "rounds of training are missing; run fedser stage=train"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "not a complete Parquet file"),
        (lambda path: pd.DataFrame({"round": [1]}).to_parquet(path), "'fold', 'role'"),
    ],
)
def test_damaged_rounds_are_a_one_line_user_error(run_dir: Path, damage: Any, message: str) -> None:
    path = run_dir / "rounds.parquet"
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        read_rounds(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
