import os
import sys
import time


def start():
    between = os.fork()
    if between > 0:
        os.waitpid(between, 0)
        return
    os.setsid()
    if os.fork() > 0:
        os._exit(0)
    os.execv(sys.executable, [sys.executable, "WORKER.py"])


due = time.monotonic()
while True:
    start()
    due += 1.0
    time.sleep(max(0.0, due - time.monotonic()))
