fedser stage=attack run=runs/plain corpus.file=mine/utterances.csv \
    'attack=[statistics,correlation,centroid]'
