PYTHONPATH=mine fedser --config-dir mine/conf corpus=family data_root=/data stage=check
