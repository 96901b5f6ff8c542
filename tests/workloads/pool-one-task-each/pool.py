"""Squares, each in a process of its own."""

import multiprocessing
import os
import time

TASKS = 400


def square(number):
    time.sleep(0.02)
    return number * number, os.getpid()


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    with multiprocessing.Pool(32, maxtasksperchild=1) as pool:
        answers = pool.map(square, range(TASKS), chunksize=1)
    assert [answer for answer, _ in answers] == [number**2 for number in range(TASKS)]
    assert len({pid for _, pid in answers}) == TASKS
