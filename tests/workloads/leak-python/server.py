import time

PACE = 1 / 16
answers = {}
due = time.monotonic()
request = 0
while True:
    request += 1
    answers[f"/items/{request}"] = bytearray(b"a" * (256 << 10))
    due += PACE
    time.sleep(max(0.0, due - time.monotonic()))
