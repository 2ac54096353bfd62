fedser corpus=manifest corpus.file=mine/utterances.csv corpus.name=mine stage=check
