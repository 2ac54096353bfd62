"""The server: privacy, strategy, transcript, rounds, grids, network and studies."""

from fedser.common.environment import keep_quiet

keep_quiet()  # before Flower is imported
