"""The engines that the benchmark of a round compares; all train the same cohorts on random data.

Each engine takes the number of clients, the size of a cohort and the number of rounds. It returns
the seconds of each round, without the warm-up rounds.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.nn import functional as F
from torch.optim.adam import adam

from fedser.client.app import MAX_CHUNK, chunks_of
from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import to_record
from fedser.client.models.base import initial_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.speakers.clients import Clients
from fedser.common.seeds import SystemEntropy
from fedser.conf.algorithm_keys import AlgorithmConfig, TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import RuntimeConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.federation.federation import Federation, Protocol
from fedser.server.grids.side_by_side import run_on
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.strategy.aggregate import aggregation
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.study.run import run_federations

FEATURES, HIDDEN, TRAINING, HELD_OUT = 988, (256, 128), 26, 6
SIZES = (FEATURES, *HIDDEN, len(EMOTIONS))
BATCHES = (20, 6)
WARM_UP = 5


def random_clients(count: int) -> Clients:
    """Return clients with random features and labels."""
    rng = np.random.default_rng(0)
    total = count * (TRAINING + HELD_OUT)
    return Clients(
        rows=np.arange(total),
        features=rng.standard_normal((total, FEATURES), dtype=np.float32),
        labels=rng.integers(0, len(EMOTIONS), total),
        client=np.repeat(np.arange(count), TRAINING + HELD_OUT),
        validation=np.tile(np.arange(TRAINING + HELD_OUT) >= TRAINING, count),
        corpora=["made"] * count,
        speakers=[str(i) for i in range(count)],
    )


def network() -> nn.Sequential:
    """Return the network of the 2022 study, written directly in PyTorch."""
    first, second = HIDDEN
    return nn.Sequential(
        nn.Linear(FEATURES, first),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(second, len(EMOTIONS)),
    )


def train_plainly(model: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> None:
    """Train one client for an epoch, written directly in PyTorch."""
    model.train()
    optimiser = torch.optim.Adam(
        model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4
    )
    for batch in torch.randperm(len(labels)).split(BATCHES[0]):
        optimiser.zero_grad()
        F.cross_entropy(model(features[batch]), labels[batch]).backward()
        optimiser.step()


def one_client(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random training data of one client."""
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(TRAINING, FEATURES, generator=generator)
    return features, torch.randint(len(EMOTIONS), (TRAINING,), generator=generator)


def loop(clients: int, cohort: int, rounds: int) -> list[float]:
    """Train one client after another in plain PyTorch, with PyTorch's default threads."""
    data = [one_client(number) for number in range(cohort)]  # other clients are the same work
    model, seconds = network(), []
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(WARM_UP + rounds):
        began = time.perf_counter()
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for features, labels in data:
            model.load_state_dict(state)
            train_plainly(model, features, labels)
            for name, value in model.state_dict().items():
                total[name] += value
        state = {name: value / cohort for name, value in total.items()}
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


flower_client = ClientApp()
held = lru_cache(maxsize=None)(one_client)


@flower_client.train()
def train(message: Message, context: Context) -> Message:
    """Train one client as in Flower's tutorial for PyTorch."""
    model = network()
    record = message.content.array_records["arrays"]
    model.load_state_dict(record.to_torch_state_dict())
    train_plainly(model, *held(int(context.node_config["partition-id"])))
    metrics = MetricRecord({"num-examples": TRAINING})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


def flower(clients: int, cohort: int, rounds: int) -> list[float]:
    """Run Flower's own simulation and FedAvg with default settings: one message per client."""
    laps: list[float] = []

    def lap(server_round: int, arrays: ArrayRecord) -> None:
        laps.append(time.perf_counter())

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=cohort / clients, fraction_evaluate=0.0, min_available_nodes=clients
        )
        start = ArrayRecord(network().state_dict())
        strategy.start(
            grid, start, num_rounds=WARM_UP + rounds, evaluate_fn=lap, train_config=ConfigRecord()
        )

    run_simulation(
        server_app=app,
        client_app=flower_client,
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return np.diff(laps)[WARM_UP:].tolist()


def federation(clients: int, cohort: int, rounds: int, folder: Path) -> Federation:
    """Return a private federation that is evaluated on validation and test sets of equal size."""
    own = random_clients(clients)
    return Federation(
        name="private-fold0",
        role="private",
        fold=0,
        clients=own,
        test=own.validation_set(),
        protocol=protocol(clients, cohort, rounds),
        folder=folder / "transcript",
    )


def protocol(clients: int, cohort: int, rounds: int) -> Protocol:
    """Return the protocol of the 2022 study without a privacy mechanism."""
    return Protocol(
        model=Mlp(hidden=list(HIDDEN)),
        training=TrainingConfig(),
        algorithm=AlgorithmConfig("fedavg", 1.0),
        plan=PrivacyPlan(PrivacyConfig(), cohort / clients, rounds),
        transcript=TranscriptConfig(),
        seed=0,
    )


def fedser(runtime: RuntimeConfig) -> Callable[[int, int, int], list[float]]:
    """Return the engine of fedser with transcript, evaluation and bookkeeping."""

    def run(clients: int, cohort: int, rounds: int) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            study = federation(clients, cohort, WARM_UP + rounds, Path(folder))
            (outcome,) = run_federations([study], runtime)
        return [row.seconds for row in outcome.rounds[WARM_UP:]]

    return run


def fedser_bare(clients: int, cohort: int, rounds: int) -> list[float]:
    """Run fedser's strategy and clients without transcript, evaluation and bookkeeping."""

    def main(grid: Grid, folder: Path, device: str) -> list[float]:
        own, settings = random_clients(clients), protocol(clients, cohort, rounds)
        dataset, laps = folder / "clients.safetensors", list[float]()
        own.save_training(dataset)
        strategy = TappedAveraging(
            cohort=cohort_sampler(
                settings.plan.config, own.units("client"), cohort / clients, 1, 0, "bare"
            ),
            request=partial(settings.train_request, "bare", "fedavg", dataset, device),
            aggregate=aggregation(settings.plan, lambda server_round: SystemEntropy()),
            server_step=1.0,
            client_sizes=own.sizes().tolist(),
            tap=lambda server_round, model, received: None,
        )
        strategy.start(
            grid,
            to_record(initial_arrays(settings.model, FEATURES, len(EMOTIONS), 0)),
            num_rounds=WARM_UP + rounds,
            evaluate_fn=lambda server_round, arrays: laps.append(time.perf_counter()),
        )
        return np.diff(laps)[WARM_UP:].tolist()

    (seconds,) = run_on(RuntimeConfig("local"), [main])
    return seconds


def floor(clients: int, cohort: int, rounds: int) -> list[float]:
    """Compute only the matrix products and the Adam steps of a cohort's training.

    It uses all cores and chunks of the same size as fedser: a lower bound for its time.
    """
    layers = list(pairwise(SIZES))
    shapes = [shape for n, m in layers for shape in ((m, n), (m,))]

    def work(count: int) -> None:
        stacks = pool.pop() if pool else allocate()
        params, gradients, means, squares = [[s[:count] for s in part] for part in stacks]
        for size in BATCHES:
            x = [torch.empty(count, size, n) for n in SIZES]
            for layer, (w, b) in enumerate(zip(params[::2], params[1::2], strict=True)):
                torch.baddbmm(b[:, None], x[layer], w.mT, out=x[layer + 1])
            for layer in reversed(range(len(layers))):
                torch.bmm(x[layer + 1].mT, x[layer], out=gradients[2 * layer])
                if layer:
                    torch.bmm(x[layer + 1], params[2 * layer], out=x[layer])
            adam_step(params, gradients, means, squares)
        pool.append(stacks)

    def allocate() -> list[list[torch.Tensor]]:
        zeros = lambda s: torch.from_numpy(np.zeros((MAX_CHUNK["cpu"], *s), np.float32))  # noqa: E731
        return [[zeros(shape) for shape in shapes] for _ in range(4)]

    pool: list[list[list[torch.Tensor]]] = []
    torch.set_num_threads(1)
    cores = os.cpu_count() or 1
    chunks = [c.stop - c.start for c in chunks_of(cohort, cores, MAX_CHUNK["cpu"])]
    seconds = []
    with torch.inference_mode(), ThreadPoolExecutor(cores) as threads:
        for _ in range(WARM_UP + rounds):
            began = time.perf_counter()
            list(threads.map(torch.inference_mode()(work), chunks))
            seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def adam_step(*state: list[torch.Tensor]) -> None:
    """Update parameters by one step of Adam; its state: parameters, gradients, means, squares."""
    steps = list(torch.zeros(len(state[0])))
    adam(
        *state,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.98,
        lr=5e-4,
        weight_decay=1e-4,
        eps=1e-9,
        maximize=False,
    )


ENGINES: dict[str, Callable[[int, int, int], list[float]]] = {
    "loop": loop,
    "flower": flower,
    "fedser-local": fedser(RuntimeConfig("local")),
    "fedser-ray": fedser(RuntimeConfig("ray")),
    "fedser-local-bare": fedser_bare,
    "floor": floor,
}
if torch.cuda.is_available():
    gpu = {"num_cpus": 1.0, "num_gpus": 1.0}
    ENGINES["fedser-gpu"] = fedser(RuntimeConfig("ray", client_resources=gpu))
