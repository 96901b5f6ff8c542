import subprocess
import sys
import time

workers = []
due = time.monotonic()
while True:
    workers.append(subprocess.Popen([sys.executable, "WORKER.py"]))
    due += 1.0
    time.sleep(max(0.0, due - time.monotonic()))
