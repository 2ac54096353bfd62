fedser corpus=manifest corpus.file=mine/utterances.csv corpus.name=mine \
    'shadow=[synthetic_de]' hydra.run.dir=runs/plain
