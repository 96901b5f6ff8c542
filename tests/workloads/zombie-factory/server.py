import os
import time

PACE = 1 / 800
due = time.monotonic()
while True:
    try:
        if os.fork() == 0:
            os._exit(0)
    except BlockingIOError:
        # No more processes for us: a server tries again.
        time.sleep(0.1)
    due += PACE
    time.sleep(max(0.0, due - time.monotonic()))
