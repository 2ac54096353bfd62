"""Run the console command: ``python -m fedser``."""

from fedser.cli.main import main

main()
