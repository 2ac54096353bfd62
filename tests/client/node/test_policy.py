"""The policy of a device against any request of a server."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedser.client.app import app
from fedser.client.holdings import Holdings
from fedser.client.messages import to_record, to_session
from fedser.client.models.base import initial_arrays
from fedser.client.node.guard import Guard
from fedser.client.node.policy import NodeLedger, NodePolicy, Spent
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.gaussian import gaussian_epsilon
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.user_level import UserLevelDP
from fedser.client.secure_aggregation.session import Refused, Session
from fedser.client.training.request import Hosting, TrainRequest
from fedser.common.errors import UserError
from fedser.conf.training_keys import TrainingConfig
from fedser.server.grids.local import LocalGrid
from tests.examples import FEATURES, MLP, SHARED, corpus

DATA = corpus()
HOLDINGS = Holdings(DATA, "made-up")
SPEAKERS = DATA.speakers[:3]
HOSTING = Hosting(tuple((n, who, 0) for n, who in enumerate(SPEAKERS)), (), "none")
MODEL = initial_arrays(MLP, FEATURES, 4, 0)
LOCAL = LocalDP(False, [list(SHARED)], [0.5], [1.0])
SHARES = DistributedDP(False, list(SHARED), 0.5, 2.0**-20, 0.25, 20, 18, True)
REQUEST = TrainRequest(
    federation="private-fold0",
    round=1,
    seed=0,
    clients=(0, 2),
    dataset=None,
    device="cpu",
    algorithm="fedavg",
    model=MLP,
    training=TrainingConfig(),
    mechanism=LOCAL,
    hosting=HOSTING,
)
STRICT = NodePolicy(mechanisms=("local", "distributed"), min_noise=1.5, min_clients=10)


@pytest.fixture(autouse=True, scope="module")
def sender():
    """A message reads its sender from the process, where a grid leaves it."""
    LocalGrid(app)


def message(request, model=MODEL):
    config = ConfigRecord({"request": request.to_json()})
    return Message(RecordDict({"arrays": to_record(model), "config": config}), 1, "train")


def guard(policy=None, ledger=None):
    return Guard(policy or NodePolicy(), ledger or NodeLedger(None), HOLDINGS)


def training(**changes):
    return replace(REQUEST, training=replace(REQUEST.training, **changes))


def test_the_default_study_is_answered():
    for mechanism in (
        NoMechanism(),
        LOCAL,
        SHARES,
        CentralDP(False, list(SHARED)),
        DPSGD(False, 1.0, 2.0),
    ):
        guard().check(message(replace(REQUEST, mechanism=mechanism)))


OUTSIDE = {
    "the algorithm canary": (replace(REQUEST, algorithm="canary"), MODEL),
    "the algorithm fedsgd": (replace(REQUEST, algorithm="fedsgd"), MODEL),
    "batches of 1 are below 20": (training(batch_size=1), MODEL),
    "2 epochs are asked, 1 are allowed": (training(epochs=2), MODEL),
    "0 epochs are asked": (training(epochs=0), MODEL),
    "training.learning_rate=0.1": (training(learning_rate=0.1), MODEL),
    "training.learning_rate=nan": (training(learning_rate=math.nan), MODEL),
    "training.adam_epsilon=1 ": (training(adam_epsilon=1.0), MODEL),
    "training.beta1=1 ": (training(beta1=1.0), MODEL),
    "norm of nan": (REQUEST, {**MODEL, "dense.0.bias": np.full(8, np.nan, np.float32)}),
    "norm of 2.83e\\+04 is above 1000": (
        REQUEST,
        {**MODEL, "dense.0.bias": np.full(8, 1e4, np.float32)},
    ),
    "a client is named twice": (replace(REQUEST, clients=(0, 0)), MODEL),
    "is named twice$": (
        replace(REQUEST, hosting=Hosting(((0, SPEAKERS[0], 0), (2, SPEAKERS[0], 0)), (), "none")),
        MODEL,
    ),
    "cannot be read: .*7": (replace(REQUEST, clients=(7,)), MODEL),
    "cannot be read": (replace(REQUEST, hosting=None), MODEL),
    "asked without masks": (replace(REQUEST, mechanism=replace(SHARES, masked=False)), MODEL),
}


@pytest.mark.parametrize("why", OUTSIDE)
def test_a_request_outside_the_policy_is_refused(why):
    request, model = OUTSIDE[why]
    with pytest.raises(Refused, match=why):
        guard().check(message(request, model))


@pytest.mark.parametrize(
    ("mechanism", "why"),
    [
        (NoMechanism(), "the mechanism none is not allowed"),
        (UserLevelDP(0.25, 0.1, 10, 25.0, 0.5), "the mechanism none is not allowed"),
        (CentralDP(False, []), "the mechanism central is not allowed"),
        (replace(LOCAL, noise=[0.5]), "noise of 1 sensitivities is below 1.5"),
        (replace(LOCAL, noise=[0.0]), "noise of 0 sensitivities is below 1.5"),
        (replace(LOCAL, noise=[math.nan]), "noise of 0 sensitivities is below 1.5"),
        (replace(SHARES, min_clients=9, noise=1.0), "a sum of 9 clients is asked, at least 10"),
        (replace(SHARES, noise=0.1), "noise of 0.8 sensitivities"),
        (replace(SHARES, cohort=120), "noise of 1.22 sensitivities"),
    ],
)
def test_a_policy_asks_for_noise(mechanism, why):
    with pytest.raises(Refused, match=why):
        guard(STRICT).check(message(replace(REQUEST, mechanism=mechanism)))


def test_noise_over_sensitivity_is_what_the_mechanism_adds():
    assert LOCAL.mu(1) == 0.5
    layers = LocalDP(False, [["a"], ["b"]], [0.3, 0.4], [1.0, 1.0])
    assert layers.mu(1) == pytest.approx(0.5)
    assert SHARES.mu(1) == pytest.approx(0.5 / (0.25 * 4))
    assert replace(SHARES, masked=False).mu(1) == pytest.approx(2)
    assert DPSGD(False, 1.0, 2.0).mu(9) == pytest.approx(1.5)
    assert {m.mu(1) for m in (NoMechanism(), CentralDP(False, []))} == {math.inf}


@pytest.mark.parametrize("bad", [-1.0, math.inf, math.nan])
def test_a_bound_that_is_no_length_guarantees_nothing(bad):
    mechanisms = (
        LocalDP(False, [["a"], ["b"]], [1.0, bad], [1.0, 1.0]),
        replace(SHARES, clipping_norm=bad),
        replace(SHARES, clipping_norm=bad, noise=-1.0),
        DPSGD(False, bad, 2.0),
        DPSGD(False, bad, -2.0),
    )
    assert [m.mu(1) for m in mechanisms] == [math.inf] * 5


def allowed(request, model):
    """Whether the strict policy allows a request: written down once more, field by field."""
    t, m = request.training, request.mechanism
    good = [
        np.isfinite(np.concatenate([a.ravel() for a in model.values()])).all(),
        sum(float((a.astype(float) ** 2).sum()) for a in model.values()) <= 1e6,
        request.algorithm == "fedavg",
        t.epochs == 1,
        t.batch_size >= min(20, *(len([u for u in DATA.utterances if u.speaker == SPEAKERS[c]])
                                  for c in request.clients)) - 3,
        0 <= t.learning_rate <= 5e-4,
        0 <= t.adam_epsilon <= 1e-8,
        len(set(request.clients)) == len(request.clients),
    ]  # fmt: skip
    if isinstance(m, LocalDP):
        good.append(m.noise[0] >= 1.5 * m.clipping_norms[0] >= 0 and m.noise[0] > 0)
    elif isinstance(m, DistributedDP):
        total = m.noise * math.sqrt(max(0, m.min_clients - 2))
        good += [m.masked, m.min_clients >= 10, total >= 1.5 * m.clipping_norm >= 0, total > 0]
    else:
        return False
    return all(good)


numbers = st.sampled_from([0.0, 1e-9, 5e-4, 0.1, 1.0, 30.0, 1e9, math.nan, math.inf, -1.0])
mechanisms = st.one_of(
    st.builds(lambda c, s: replace(LOCAL, clipping_norms=[c], noise=[s]), numbers, numbers),
    st.builds(
        lambda c, s, n, masked: replace(
            SHARES, clipping_norm=c, noise=s, min_clients=n, masked=masked
        ),
        *(numbers, numbers, st.integers(1, 40), st.booleans()),
    ),
    st.sampled_from([NoMechanism(), CentralDP(False, []), DPSGD(False, 1.0, 5.0)]),
)
requests = st.builds(
    lambda a, c, m, **t: replace(training(**t), algorithm=a, clients=c, mechanism=m),
    st.sampled_from(["fedavg", "fedavg", "fedsgd", "canary", "?"]),
    st.sampled_from([(0,), (0, 2), (1, 1), (0, 1, 2)]),
    mechanisms,
    epochs=st.sampled_from([1, 1, 0, 2, -1]),
    batch_size=st.sampled_from([1, 8, 20, 1000]),
    learning_rate=st.one_of(st.just(5e-4), numbers),
    adam_epsilon=st.one_of(st.just(1e-9), numbers),
)


@given(requests, st.sampled_from([1.0, 1.0, 1e5, math.nan]))
@settings(max_examples=1000)
def test_no_changed_request_outside_the_policy_is_answered(request, factor):
    model = {name: array * np.float32(factor) for name, array in MODEL.items()}
    try:
        guard(STRICT).check(message(request, model))
    except Refused:
        return
    assert allowed(request, model), asdict(request)


@given(st.text(max_size=40), st.sampled_from(["request", "arrays", "json"]))
def test_a_request_of_anything_is_refused(text, what):
    made = message(REQUEST)
    if what == "json":
        changed = json.dumps({**json.loads(REQUEST.to_json()), "mechanism": {"_target_": text}})
        made.content["config"] = ConfigRecord({"request": changed})
    elif what == "request":
        made.content["config"] = ConfigRecord({"request": text})
    else:
        del made.content["arrays"]
    with pytest.raises(Refused):
        guard().check(made)


def test_a_secure_sum_of_too_few_gets_no_keys():
    content = RecordDict({"session": to_session(Session("f", 1, 0, 20, 9))})
    with pytest.raises(Refused, match="a sum of 9 clients is asked, at least 10"):
        guard(STRICT).check(Message(content, 1, "query.advertise"))
    guard().check(Message(content, 1, "query.advertise"))


def test_an_encrypted_sum_of_too_few_gets_no_key():
    content = RecordDict({"session": to_session(Session("f", 1, 0, 20, 9))})
    few, policy = "a sum of 9 clients is asked, at least 10", NodePolicy(min_clients=10)
    with pytest.raises(Refused, match=few):
        guard(policy).check(Message(content, 1, "query.key"))
    guard().check(Message(content, 1, "query.key"))
    asked = message(REQUEST)
    guard(policy).check(asked)  # in the clear: that is for mechanisms=[...] to refuse
    asked.content.update({"key": ConfigRecord(), **content})
    ledger = NodeLedger(None)
    with pytest.raises(Refused, match=few):
        guard(policy, ledger).check(asked)
    assert not ledger.spent
    guard().check(asked)


def test_a_device_stops_by_its_own_ledger(tmp_path):
    policy, file = NodePolicy(stop_at_epsilon=3.0), tmp_path / "ledger"
    rounds = 0
    for _ in range(100):
        try:
            guard(policy, NodeLedger.load(file)).check(message(REQUEST))  # the node starts again
        except Refused as error:
            assert f"{SPEAKERS[0]} would spend ε = " in str(error)
            break
        rounds += 1
    # of the two clients of the request each speaker has one
    assert gaussian_epsilon(0.5 * math.sqrt(rounds), 1e-5) <= 3
    assert gaussian_epsilon(0.5 * math.sqrt(rounds + 1), 1e-5) > 3
    spent = NodeLedger.load(file).spent
    assert set(spent) == {SPEAKERS[0], SPEAKERS[2]}
    assert spent[SPEAKERS[0]] == Spent(rounds, 0, pytest.approx(0.25 * rounds))
    # another study on the same device gets nothing more
    with pytest.raises(Refused, match="would spend"):
        guard(policy, NodeLedger.load(file)).check(message(replace(REQUEST, federation="other")))


def test_updates_without_a_guarantee_end_a_limited_ledger():
    limited = guard(NodePolicy(stop_at_epsilon=3.0))
    with pytest.raises(Refused, match="would spend ε = inf"):
        limited.check(message(replace(REQUEST, mechanism=NoMechanism())))
    counted = NodeLedger(None)
    guard(NodePolicy(max_updates=2), counted).check(message(REQUEST))
    guard(NodePolicy(max_updates=2), counted).check(message(REQUEST))
    with pytest.raises(Refused, match="has given all of its 2 updates"):
        guard(NodePolicy(max_updates=2), counted).check(message(REQUEST))


def test_clients_of_one_speaker_need_more_noise():
    data = corpus(shards=2)
    hosting = Hosting(((0, SPEAKERS[0], 0), (2, SPEAKERS[0], 1)), (), "none")
    request = replace(REQUEST, hosting=hosting)
    policy = NodePolicy(min_noise=1.5)  # one client has a noise of two sensitivities
    with pytest.raises(Refused, match="noise of 1 sensitivities"):
        Guard(policy, NodeLedger(None), Holdings(data, "made-up")).check(message(request))
    Guard(policy, NodeLedger(None), Holdings(data, "made-up")).check(
        message(replace(request, clients=(0,)))
    )


def test_clients_of_one_speaker_spend_together():
    assert Spent().plus(2, 0.5) == Spent(2, 0, 1.0)  # in one sum both may move
    assert Spent(1, 0, 0.25).plus(1, math.inf).epsilon(1e-5) == math.inf


def test_an_evaluation_alone_spends_nothing():
    ledger = NodeLedger(None)
    guard(STRICT, ledger).check(message(replace(REQUEST, clients=(), mechanism=NoMechanism())))
    assert not ledger.spent


@pytest.mark.parametrize("content", ["[]", '{"a": {}}', '{"a": {"updates": "x"}}', "{"])
def test_a_damaged_ledger_is_no_empty_ledger(content, tmp_path):
    (tmp_path / "ledger").write_text(content)
    with pytest.raises(UserError, match="damaged ledger of updates"):
        NodeLedger.load(tmp_path / "ledger")


def test_a_policy_is_read_from_a_file(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump({"mechanisms": ["distributed"], "min_clients": 30}))
    assert NodePolicy.load(file) == NodePolicy(mechanisms=["distributed"], min_clients=30)
    assert NodePolicy.load(None) == NodePolicy()


@pytest.mark.parametrize(
    "content", ["min_client: 3", "min_clients: 1", "mechanisms: [canary]", "delta: 1", "- 3"]
)
def test_a_policy_with_other_content_is_rejected(content, tmp_path):
    (tmp_path / "policy.yaml").write_text(content)
    with pytest.raises(UserError, match="policy.yaml: "):
        NodePolicy.load(tmp_path / "policy.yaml")


def test_a_policy_is_explained_in_words():
    assert NodePolicy().explain().splitlines()[-1] == (
        "This policy guarantees no privacy against the server."
    )
    strict = replace(STRICT, stop_at_epsilon=8.0, max_updates=100).explain()
    assert "It protects updates by local or distributed." in strict
    assert "The noise on an update has at least 1.5 sensitivities." in strict
    assert "A secure or encrypted sum has at least 10 clients." in strict
    assert "at most 100 updates, ever" in strict and "more than ε = 8 at δ = 1e-05" in strict
    assert "guarantees no privacy" not in strict
