"""A deployed application as small as it can be, that tells what was imported for it.

The first finder on the import path finds nothing, and only writes down who asked: the first frame that is no part of
the import machinery.
"""

import os
import sys

importers = {}


class Witness:
    @staticmethod
    def find_spec(name, path=None, target=None):
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importers[name] = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "the interpreter"


sys.meta_path.insert(0, Witness)


def mark(what):
    """Tell the listener in front of DynamoDB how far we are; its queue keeps the order of what knocks at its door."""
    from _socket import socket

    host, _, port = os.environ["AWS_ENDPOINT_URL_DYNAMODB"].removeprefix("http://").partition(":")
    door = socket()
    door.connect((host, int(port)))
    door.sendall(f"MARK {what}\n".encode())
    door.recv(1)
    door.close()


from onward import App  # noqa: E402

app = App("hot")


@app.workflow(on="hot/go")
def hot(event, step):
    first = step.run("first", add, event.data["a"], 1)
    return step.run("second", add, first, 1)


def add(a, b):
    return a + b


take = app.handler()
mark("init")


def handler(payload, context):
    mark("invoked")
    take(payload, context)
    mark("answered")
    return {"modules": sorted(sys.modules), "importers": importers}
