import gc
import time

gc.disable()


class Node:
    """Garbage that only a collection finds: it points to itself."""

    def __init__(self):
        self.payload = bytearray(b"g" * (1 << 20))
        self.itself = self


for _ in range(8):
    for _ in range(250):
        Node()
        time.sleep(0.016)
    gc.collect()
