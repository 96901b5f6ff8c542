# Reads one file of a project after the other into its context: 3 MB a second, up to 400 MB.
import time

context = []
due = time.monotonic()
for _ in range(1600):
    context.append(bytearray(b"c" * (256 << 10)))
    due += 1 / 12
    time.sleep(max(0.0, due - time.monotonic()))
time.sleep(3600)
