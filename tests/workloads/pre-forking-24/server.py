import os
import time

application = b"a" * (80 << 20)


def worker():
    # Reads all that is shared, and has 4 MB of its own.
    own = bytearray(4 << 20)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        own[0] = application.count(b"b", 0, 1 << 20) & 1
        time.sleep(0.2)
    application.count(b"b")


children = []
for _ in range(24):
    child = os.fork()
    if child == 0:
        worker()
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
