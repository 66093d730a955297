"""Runs the own test suite of py-consul (pytest), each test on a registry of its own, and reports a line for each test.

The suite's root conftest.py starts containers. The fixtures here take its place: the same names, and a registry that
`foreign registry` starts. Where that has a sidecar before it, the key-value tests alone run, and their reads go to the sidecar.
"""

import collections
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import urllib.request
import uuid

import consul.std
import pytest

ConsulInstance = collections.namedtuple("ConsulInstance", ["container", "port", "version"])


class ReadsElsewhere(consul.std.HTTPClient):
    """The library's client, with another address for key-value reads."""

    address = None

    def get(self, callback, path, *more, **others):
        own = self.base_uri
        if path.startswith("/v1/kv/"):
            self.base_uri = self.address
        try:
            return super().get(callback, path, *more, **others)
        finally:
            self.base_uri = own


@contextlib.contextmanager
def registry(*options):
    command = [os.environ["FOREIGN_PROGRAM"], "registry", os.environ["FOREIGN_SIDE"], *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            address, reads = process.stdout.readline().strip(), process.stdout.readline().strip()
            if not reads:
                raise RuntimeError("the registry did not start")
            ReadsElsewhere.address = reads
            with urllib.request.urlopen(f"{address}/v1/agent/self", timeout=10) as answer:
                version = json.load(answer)["Config"]["Version"]
            yield ConsulInstance(process, int(address.rsplit(":", 1)[1]), version)
        finally:
            process.stdin.close()
            process.wait(30)


@pytest.fixture
def consul_instance():
    with registry() as instance:
        yield instance


@pytest.fixture
def acl_consul_instance():
    token = uuid.uuid4().hex
    with registry("--acl", token) as instance:
        yield instance, token


@pytest.fixture
def consul_port(consul_instance):
    return consul_instance.port, consul_instance.version


def pytest_runtest_logreport(report):
    name = "_".join(report.nodeid.removeprefix("tests/").split())
    if report.failed:
        text = report.longreprtext.splitlines()
        why = next((line[1:].strip() for line in text if line.startswith("E ")), report.when)
        print(f"\nfail {name}: {why}")
    elif report.skipped:
        print(f"\nskip {name}: {report.longrepr[2]}")
    elif report.when == "call":
        print(f"\nok {name}")


if __name__ == "__main__":
    suite = pathlib.Path(sys.prefix) / "suite"
    os.chdir(suite)
    sys.path.insert(0, str(suite))
    options = ["-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--timeout=60", "--capture=sys", "-q", "-rN"]
    tests = "tests"
    if os.environ["FOREIGN_SIDE"].startswith("sidecar"):
        consul.std.HTTPClient = ReadsElsewhere
        tests = "tests/api/test_kv.py"
    sys.exit(pytest.main([*options, tests], plugins=[sys.modules[__name__]]))
