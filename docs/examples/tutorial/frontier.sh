fedser -m corpus=manifest corpus.file=mine/utterances.csv corpus.name=mine \
    'shadow=[synthetic_de]' privacy=none,udp_25,local_8,central_8 hydra.sweep.dir=runs/frontier
