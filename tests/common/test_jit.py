import subprocess
import sys

SCRIPT = """
from numba.core.caching import CacheImpl
CacheImpl._locator_classes = []
import numpy as np
from fedser.common.jit import KEEPS_CODE, compiling_alone, sum_of_squares
with compiling_alone():
    print(KEEPS_CODE, sum_of_squares(np.arange(4.0)))
"""


def test_loops_compile_where_no_folder_can_keep_their_code():
    call = [sys.executable, "-c", SCRIPT]
    told = subprocess.run(call, capture_output=True, text=True)
    assert told.stdout == "False 14.0\n", told.stderr
