fedser stage=attack run=runs/plain 'attack=[statistics,correlation,centroid]'
