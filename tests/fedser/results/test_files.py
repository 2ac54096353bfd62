import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedser.common.errors import UserError
from fedser.results.files import SCHEMA, read_results, without_folders, write_results

Results = dict[str, Any]


def test_schema_is_valid_and_describes_every_top_level_key() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["required"]) == set(SCHEMA["properties"])


def test_results_read_back_equal_whatever_the_key_order(tmp_path: Path, results: Results) -> None:
    write_results(tmp_path / "a.json", results)
    write_results(tmp_path / "b.json", dict(reversed(results.items())))
    assert read_results(tmp_path / "a.json") == results
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("privacy", "epsilon", "infinite"),
        ("privacy", "epsilon", -0.1),
        ("privacy", "delta", 1.5),
        ("privacy", "unit", "household"),
        ("privacy", "relation", None),  # an epsilon without its relation
        ("privacy", "vantage", None),
        ("privacy", "participation", None),
        ("privacy", "participation", "public"),
        ("privacy", "epsilon_known_participation", "none"),
        ("privacy", "sampling", None),
        ("privacy", "sampling", "shuffled"),
        ("privacy", "noise_multiplier", 0),
        ("privacy", "clipping_norm", "0.1"),
        ("privacy", "noise", None),
        ("privacy", "noise", "hardware"),
        ("utility", "uar", 58.3),  # per cent instead of a share
        ("utility", "best_round", 3.5),
        ("corpus", "skipped", 2),
        ("timing", "train_seconds", -1),
        ("versions", "flwr", 1.41),
    ],
)
def test_schema_rejects(
    tmp_path: Path, results: Results, section: str, key: str, value: object
) -> None:
    results[section][key] = value
    with pytest.raises(ValueError, match=rf"\$\.{section}\.{key}"):
        write_results(tmp_path / "results.json", results)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auc", 1.01),
        ("auc", "0.9"),
        ("ci95_auc", [0.4]),
        ("p_value", 1.2),
        ("advantage", -0.1),
        ("ece", "0.1"),
        ("tpr_at_fpr_10", 10),
        ("leaked_updates", 0),
        ("leaked_updates", "most"),
        ("aware", "yes"),
        ("roc", {"fpr": [0.0, 1.0]}),
        ("gender", "female"),
    ],
)
def test_schema_rejects_in_attacks(
    tmp_path: Path, results: Results, key: str, value: object
) -> None:
    results["attacks"][0][key] = value
    with pytest.raises(ValueError, match=r"\$\.attacks\[0\]"):
        write_results(tmp_path / "results.json", results)


@pytest.mark.parametrize("key", ["tpr_at_fpr_10", "advantage", "ece", "p_value"])
def test_figures_of_an_attack_may_be_null_but_not_left_out(
    tmp_path: Path, results: Results, key: str
) -> None:
    results["attacks"][0][key] = None
    write_results(tmp_path / "results.json", results)
    del results["attacks"][0][key]
    with pytest.raises(ValueError, match=f"'{key}' is a required property"):
        write_results(tmp_path / "results.json", results)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_rejected_and_the_old_file_stays(
    tmp_path: Path, results: Results, number: float
) -> None:
    path = tmp_path / "results.json"
    write_results(path, results)
    before = path.read_bytes()
    results["utility"]["uar"] = number
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(path, results)
    assert path.read_bytes() == before


def test_absent_guarantee_needs_no_statement(tmp_path: Path, results: Results) -> None:
    absent = ("unit", "relation", "vantage", "delta", "epsilon", "accountant", "releases_max")
    results["privacy"] |= dict.fromkeys((*absent, "participation", "noise", "clipping_norm"))
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json")["privacy"]["epsilon"] is None


@pytest.mark.parametrize(
    ("key", "value"), [("epsilon", None), ("participation", None), ("participation", "known")]
)
def test_epsilon_with_known_participation_needs_one_with_secret(
    tmp_path: Path, results: Results, key: str, value: object
) -> None:
    secret = {"epsilon": 8.0, "epsilon_known_participation": 24.8, "participation": "secret"}
    results["privacy"] |= secret
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json")["privacy"].items() >= secret.items()
    results["privacy"][key] = value
    with pytest.raises(ValueError, match=rf"\$\.privacy\.{key}"):
        write_results(tmp_path / "results.json", results)


@pytest.mark.parametrize(
    "key",
    ["epsilon_known_participation", "participation", "sampling"]
    + ["noise_multiplier", "clipping_norm", "noise"],
)
def test_no_part_of_the_privacy_statement_may_be_left_out(
    tmp_path: Path, results: Results, key: str
) -> None:
    del results["privacy"][key]
    with pytest.raises(ValueError, match=rf"\$\.privacy: '{key}' is a required property"):
        write_results(tmp_path / "results.json", results)


def damaged(results: Results, how: str) -> str:
    text = json.dumps(results)
    return {
        "truncated": text[: len(text) // 2],
        "empty": "",
        "nan": text.replace("0.583", "NaN"),
        "foreign": '{"accuracy": 0.9}',
        "other version": text.replace('"schema_version": 1', '"schema_version": 2'),
    }[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "nan", "foreign", "other version"])
def test_damaged_file_is_a_one_line_user_error(tmp_path: Path, results: Results, how: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(damaged(results, how))
    with pytest.raises(UserError) as caught:
        read_results(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "run fedser stage=attack" in message
    assert "\n" not in message


def test_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: there are no results yet; run fedser"):
        read_results(tmp_path / "results.json")


def test_a_configuration_is_shown_without_folders_and_addresses():
    shown = without_folders(
        {
            "corpus": {"root": "/home/somebody/ravdess/", "name": "ravdess", "shards": 1},
            "shadow": [{"file": r"C:\Users\somebody\speech table.csv"}, "~/nemo", "data/emodb"],
            "logger": {"tracking_uri": "https://user:secret@host:5000/x", "run": None},
            "emotions": {"a/b": "fear"},
        }
    )
    assert shown == {
        "corpus": {"root": "…/ravdess", "name": "ravdess", "shards": 1},
        "shadow": [{"file": "…/speech table.csv"}, "…/nemo", "data/emodb"],
        "logger": {"tracking_uri": "https://…", "run": None},
        "emotions": {"a/b": "fear"},
    }
