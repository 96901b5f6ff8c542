# Has its model in memory and waits for a second job, which never comes.
import time

model = b"x" * (20 << 20)
time.sleep(3600)
