PYTHONPATH=mine fedser --config-dir mine/conf attack=[correlation,input_norms]
