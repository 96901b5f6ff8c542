# A request in a hundred is new at last: the bound is 360 MB, less than half of what it may have.
import math
import time

BOUND = 360
SECONDS = 40

entries = {}
began = time.monotonic()
while (past := time.monotonic() - began) < SECONDS:
    warm = BOUND * math.log1p(past) / math.log1p(SECONDS)
    while len(entries) < warm:
        entries[len(entries)] = bytearray(b"e" * (1 << 20))
    time.sleep(0.1)
