# All rows of a table of 512 MiB at once, instead of one after the other.
rows = [bytearray(b"r" * (1 << 20)) for _ in range(512)]
print(len(rows))
