import csv

import numpy as np
import pytest

from fedser.client.speakers.clients import make_clients
from fedser.common.errors import UserError
from fedser.server.federation.admission import merge_rosters
from fedser.server.federation.remote_clients import Roster, read_roster, read_truth
from tests.examples import corpus

ROSTER = {"version": "1", "corpus": "made", "shards": 2, "features": "made-up", "dimension": 12}


def roster_of(**speakers):
    return {**ROSTER, "speakers": speakers}


def test_a_roster_numbers_clients_as_a_simulation_does(tmp_path):
    data = corpus(speakers=6, shards=2)
    roster = merge_rosters(
        {7: roster_of(s03=12, s00=12), 5: roster_of(s01=12, s05=12), 9: roster_of(s02=12, s04=12)}
    )
    simulated = make_clients(data, ["s00", "s01", "s03", "s05"], 0, "speaker")
    remote = roster.clients(["s05", "s00", "s01", "s03"], ["s02", "s04"], "speaker")
    assert remote.speakers == simulated.speakers and remote.corpora == simulated.corpora
    np.testing.assert_array_equal(remote.sizes(), simulated.sizes())
    assert remote.units("speaker") == simulated.units("speaker")
    assert remote.hosts[7].clients == ((0, "s00", 0), (1, "s00", 1), (4, "s03", 0), (5, "s03", 1))
    assert remote.hosts[9].clients == () and remote.hosts[9].test == ("s02", "s04")
    held_out = np.bincount(simulated.client[simulated.validation])
    assert remote.evaluated == {
        5: {"validation": held_out[2:4].sum() + held_out[6:].sum(), "test": 0},
        7: {"validation": held_out[:2].sum() + held_out[4:6].sum(), "test": 0},
        9: {"validation": 0, "test": 24},
    }
    roster.save(tmp_path)
    kept = read_roster(tmp_path)
    assert kept.speakers == roster.speakers and kept.nodes == {}
    assert kept.clients(kept.speakers, [], "none").hosts == {}


def test_a_fingerprint_does_not_depend_on_the_nodes():
    here, there = (
        Roster("made", 1, "f", 12, {"s00": 12, "s01": 12}, nodes={"s00": node, "s01": 3})
        for node in (1, 2)
    )
    of = [r.clients(["s00"], ["s01"], "none").fingerprint() for r in (here, there)]
    assert of[0] == of[1] != here.clients(["s01"], ["s00"], "none").fingerprint()


def test_truth_holds_what_all_rows_of_a_speaker_agree_on(tmp_path):
    with (tmp_path / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "speaker", "emotion", "gender", "age", "mood"])
        writer.writerow(["a.wav", "s00", "anger", "female", "29", "x"])
        writer.writerow(["b.wav", "s00", "anger", "female", "29", "y"])
        writer.writerow(["c.wav", "s01", "anger", "male", "", ""])
    assert read_truth(tmp_path / "truth.csv", "mine", [30]) == {
        "s00": {"age": "29", "age_group": "below 30", "corpus": "mine", "gender": "female"},
        "s01": {"corpus": "mine", "gender": "male"},
    }
    (tmp_path / "other.csv").write_text("who,gender\ns00,female\n")
    with pytest.raises(UserError, match=r"no column 'speaker' \(there are who, gender\)"):
        read_truth(tmp_path / "other.csv", "mine", [30])
    with pytest.raises(UserError, match="table not found"):
        read_truth(tmp_path / "absent.csv", "mine", [30])
