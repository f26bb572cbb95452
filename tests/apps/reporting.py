"""
A program for the tests that says what it finds of itself, and ends in a way that its
first argument names.
"""

import atexit
import multiprocessing
import os
import pickle
import signal
import sys
import threading


class Picklable:
    pass


def double(number: int):
    return 2 * number


def report():
    main = sys.modules["__main__"]
    print(sys.argv, sys.path, __name__, __file__, __package__)
    # Python makes these when somebody asks for them.
    print(main.__dict__ is globals(), sorted(globals().keys() - {"__annotations__"}))
    print(__spec__ and (__spec__.name, __spec__.origin), type(__loader__))
    print(double.__annotations__)
    print(type(pickle.loads(pickle.dumps(Picklable()))) is Picklable, sys.excepthook)


def spawn():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [1, 2]))


def raiseInThread():
    thread = threading.Thread(target=lambda: 1 / 0, name="a thread")
    thread.start()
    thread.join()


def raiseWithHook():
    def hook(kind, value, traceback):
        print("own hook", kind, value, traceback.tb_lineno, traceback.tb_next.tb_lineno)

    sys.excepthook = hook
    raise ValueError("x")


def raiseFromAnother():
    try:
        double()
    except TypeError as error:
        raise ValueError("y") from error


def reportLate():
    print(sys.modules["__main__"].__dict__ is globals(), double(4), sys.argv)


def leaveAThread():
    def run():
        # Until the first lines have ended.
        threading.main_thread().join()
        reportLate()

    threading.Thread(target=run).start()


ENDS = {
    "returns": lambda: None,
    "status": lambda: sys.exit(3),
    "message": lambda: sys.exit("said at the end"),
    "raises": lambda: 1 / 0,
    "hook": raiseWithHook,
    "from": raiseFromAnother,
    "spawns": spawn,
    "thread": raiseInThread,
    "left": leaveAThread,
    "interrupted": lambda: signal.raise_signal(signal.SIGINT),
    "terminated": lambda: signal.raise_signal(signal.SIGTERM),
    "atexit": lambda: atexit.register(reportLate),
    "at once": lambda: os._exit(4),
}

if __name__ == "__main__":
    report()
    sys.stdout.flush()
    ENDS[sys.argv[1]]()
