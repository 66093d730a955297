"""What the programs of HTTP/2 share: a sidecar before the registry at CONSUL_HTTP_ADDR, instances, and tests that report themselves.

All that is started here ends with the program.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.request

TESTS = []
started = []
given = set()


def test(function):
    """A function that is a test, under its own name."""
    TESTS.append(function)
    return function


def run_all():
    """Runs the tests in order, and reports each."""
    for function in TESTS:
        try:
            function()
        except Exception as error:
            traceback.print_exc()
            print(f"fail {function.__name__}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        else:
            print(f"ok {function.__name__}", flush=True)


def end_all():
    for process in started:
        process.kill()
    for process in started:
        process.wait()


atexit.register(end_all)


def same(found, expected):
    assert found == expected, f"expected {expected!r:.200}, got {found!r:.200}"


def soon(what, condition):
    """Waits for a condition, at most 30 seconds, and returns what it found."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within 30 s: {what}")


def free_port():
    """A port that was not given before."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        if port not in given:
            given.add(port)
            return port


def listens(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def start(command, name, port):
    """Starts a program, and waits until it listens on its port."""
    with open(f"{name}.log", "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    started.append(process)
    soon(f"{name} listens", lambda: process.poll() is not None or listens(port))
    assert process.poll() is None, f"{name} has ended: " + open(f"{name}.log").read()[-500:]
    return process


def serve(name, port):
    """Starts this very program as an instance."""
    return start([sys.executable, sys.argv[0], "serve", name, str(port)], name, port)


def register(service, name, port, **meta):
    body = {"ID": name, "Name": service, "Address": "127.0.0.1", "Port": port, "Meta": meta}
    url = os.environ["CONSUL_HTTP_ADDR"] + "/v1/agent/service/register"
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), method="PUT"), timeout=10).read()


class Sidecar:
    """A sidecar with these lines of settings."""

    def __init__(self, settings=""):
        self.port, self.admin = free_port(), free_port()
        with open("sidecar.yaml", "w") as file:
            file.write(
                f"registry: {{consul: {{address: \"{os.environ['CONSUL_HTTP_ADDR']}\"}}}}\n"
                f'outbound: {{listen: "127.0.0.1:{self.port}"}}\n'
                f'admin: {{listen: "127.0.0.1:{self.admin}"}}\n'
                f"state_dir: off\n{settings}"
            )
        start([os.environ["OUTRIGGER_TEST_BIN"], "run", "-c", "sidecar.yaml"], "sidecar", self.port)
        soon("the sidecar is ready", self.is_ready)

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=10).status == 200
        except OSError:
            return False

    def metrics(self):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10).read().decode()
