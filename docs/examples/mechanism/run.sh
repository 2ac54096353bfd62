PYTHONPATH=mine fedser --config-dir mine/conf privacy=rounding privacy.custom.step=0.002
