"""The keys of ``training``: local training on a client."""

from dataclasses import dataclass


@dataclass
class TrainingConfig:
    """Local optimisation; the defaults are those of the 2022 study.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over a client's utterances, and utterances per step. FedSGD takes one step on one
        batch.
    learning_rate, weight_decay, beta1, beta2, adam_epsilon : float
        Settings of Adam (Kingma and Ba, 2015). Clients do not use them under FedSGD.
    engine : str
        ``stacked`` (many clients at a time if that is faster: see
        `client.training.engine.MULTI_CLIENT_TRAINERS`) or ``loop`` (one by one, in plain PyTorch).
    """

    epochs: int = 1
    batch_size: int = 20
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    adam_epsilon: float = 1e-9
    engine: str = "stacked"

    def steps(self, num_examples: int) -> int:
        """Return the number of Adam steps per round of a client with this number of utterances."""
        return self.epochs * -(-num_examples // self.batch_size)

    def sampling_rate(self, num_examples: int) -> float:
        """Return the probability that a Poisson batch holds a given utterance of a client."""
        return min(1.0, self.batch_size / num_examples)
