import mmap
import os
import random
import time

MIB = 1 << 20
BUFFER = 400
SECONDS = 15

shared = mmap.mmap(-1, BUFFER * MIB)
for at in range(BUFFER):
    shared[at * MIB : (at + 1) * MIB] = b"p" * MIB
    time.sleep(0.005)


def backend(seed):
    chance = random.Random(seed)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for _ in range(50):
            page = chance.randrange(BUFFER * 256) * 4096
            shared[page : page + 8] = seed.to_bytes(8, "little")
        # work_mem, given back after each query.
        rows = [chance.random() for _ in range(100_000)]
        rows.sort()
        time.sleep(0.3)


children = []
for seed in range(8):
    child = os.fork()
    if child == 0:
        backend(seed)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
