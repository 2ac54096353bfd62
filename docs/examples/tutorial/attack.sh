fedser stage=attack run=runs/plain corpus=manifest corpus.file=mine/utterances.csv \
    'attack=[statistics,correlation,centroid]'
