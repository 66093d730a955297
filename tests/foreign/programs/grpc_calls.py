#!/usr/bin/env python3
"""Python's grpcio as client and as instances, with a sidecar between them.

With the arguments `serve NAME PORT` this program is an instance. Its client repeats no call by itself: what is repeated, the sidecar repeats.
"""

import collections
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from through import Sidecar, free_port, register, run_all, same, serve, soon, test

SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CODES = {code.value[0]: code for code in grpc.StatusCode}
LARGE = os.urandom(1 << 16) * 64


class Orders(grpc.GenericRpcHandler):
    """The methods of the instance: those named here, of any service but that of health. A message is bytes."""

    def __init__(self, name, health_states):
        self.name, self.health_states = name, health_states
        self.cancelled = 0

    def service(self, details):
        package, _, method = details.method[1:].partition("/")
        if package.startswith("grpc.health"):
            return None
        kind, function = {
            "Echo": (grpc.unary_unary_rpc_method_handler, self.echo),
            "Get": (grpc.unary_unary_rpc_method_handler, self.get),
            "Fail": (grpc.unary_unary_rpc_method_handler, self.fail),
            "FailLate": (grpc.unary_stream_rpc_method_handler, self.fail_late),
            "Sleep": (grpc.unary_unary_rpc_method_handler, self.sleep),
            "Remaining": (grpc.unary_unary_rpc_method_handler, lambda _, call: b"%f" % call.time_remaining()),
            "Cancelled": (grpc.unary_unary_rpc_method_handler, lambda *_: b"%d" % self.cancelled),
            "Health": (grpc.unary_unary_rpc_method_handler, self.set_health),
            "Watch": (grpc.unary_stream_rpc_method_handler, self.watch),
            "Down": (grpc.unary_stream_rpc_method_handler, lambda count, _: (b"%d" % n for n in range(int(count)))),
            "Up": (grpc.stream_unary_rpc_method_handler, lambda messages, _: b"%d" % sum(map(len, messages))),
            "Both": (grpc.stream_stream_rpc_method_handler, lambda messages, _: (each + b"!" for each in messages)),
            "Die": (grpc.unary_stream_rpc_method_handler, self.die),
        }.get(method, (None, None))
        return kind and kind(function)

    def echo(self, message, call):
        metadata = [each for each in call.invocation_metadata() if each[0].startswith("echo-")]
        call.send_initial_metadata([("who", self.name), *metadata])
        call.set_trailing_metadata([(f"late-{key}", value) for key, value in metadata])
        return message

    def get(self, message, call):
        time.sleep(0.02)
        call.set_trailing_metadata([("who", self.name)])
        return message

    def fail(self, message, call):
        call.set_trailing_metadata([("reason-bin", b"\x00\xff")])
        call.abort(CODES[int(message)], f"no {int(message)} \u00e4%\n")

    def fail_late(self, message, call):
        yield b"first"
        self.fail(message, call)

    def sleep(self, message, call):
        time.sleep(float(message))
        return message

    def set_health(self, message, _call):
        self.health_states.set("shop.Orders", int(message))
        return b""

    def watch(self, _message, call):
        call.send_initial_metadata([("who", self.name)])
        ended = threading.Event()

        def end():
            self.cancelled += 1
            ended.set()

        call.add_callback(end)
        count = 0
        while not ended.wait(0.05):
            yield b"%d" % count
            count += 1

    def die(self, _message, _call):
        yield b"first"
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)


def be_instance(name, port):
    server = grpc.server(futures.ThreadPoolExecutor(32), options=[*SIZES, ("grpc.so_reuseport", 0)])
    states = health.HealthServicer()
    states.set("shop.Orders", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    server.add_generic_rpc_handlers((Orders(name, states),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == int(port)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server.start()
    stopping.wait()
    # GOAWAY, and the calls under way end by themselves.
    server.stop(20).wait()


if sys.argv[1:2] == ["serve"]:
    be_instance(*sys.argv[2:])
    sys.exit()


SERVICES = {
    "shop": ["one", "two"],
    "alone": ["three"],
    "dying": ["four"],
    "killed": ["five", "six"],
    "rolled": ["seven", "eight"],
}
names = [name for instances in SERVICES.values() for name in instances]
PORTS = {name: free_port() for name in names}
OWN_PORT = free_port()
processes = {name: serve(name, PORTS[name]) for name in names}
for service, instances in SERVICES.items():
    for name in instances:
        register(service, name, PORTS[name])
# No other takes this port, and it refuses connections.
REFUSING = socket.socket()
REFUSING.bind(("127.0.0.1", 0))
register("dead", "dead", REFUSING.getsockname()[1])
# It accepts connections and says nothing.
HUNG = socket.create_server(("127.0.0.1", 0))
register("hung", "hung", HUNG.getsockname()[1])
sidecar = Sidecar(
    "upstreams:\n"
    f'  - {{service: shop, listen: "127.0.0.1:{OWN_PORT}"}}\n'
    "  - {service: killed, retry: {grpc_methods: [/shop.Orders/Get*]}}\n"
    "  - {service: rolled, retry: {grpc_methods: [/shop.Orders/Get*]}}\n"
)
channels = {}


def channel(service):
    if service not in channels:
        options = [("grpc.default_authority", service), ("grpc.enable_retries", 0), *SIZES]
        channels[service] = grpc.insecure_channel(f"127.0.0.1:{sidecar.port}", options=options)
    return channels[service]


def unary(service, method):
    return channel(service).unary_unary(f"/shop.Orders/{method}")


def error_of(call):
    """The error of a call that must fail."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def code_of(call):
    return error_of(call).code().value[0]


@test
def unary_call():
    same(unary("shop", "Echo")(b"hello", timeout=20), b"hello")
    same(unary("shop", "Echo")(b"", timeout=20), b"")


@test
def stream_of_the_server():
    found = list(channel("shop").unary_stream("/shop.Orders/Down")(b"2000", timeout=20))
    same(found, [b"%d" % n for n in range(2000)])
    same(list(channel("shop").unary_stream("/shop.Orders/Down")(b"0", timeout=20)), [])


@test
def stream_of_the_client():
    up = channel("shop").stream_unary("/shop.Orders/Up")
    same(up(iter([b"a" * 1000] * 1000), timeout=20), b"1000000")
    same(up(iter([]), timeout=20), b"0")


@test
def streams_both_ways():
    sent = queue.Queue()
    call = channel("shop").stream_stream("/shop.Orders/Both")(iter(sent.get, None), timeout=20)
    # Each answer is there before the next question.
    for n in range(50):
        sent.put(b"%d" % n)
        same(next(call), b"%d!" % n)
    sent.put(None)
    same((list(call), call.code()), ([], grpc.StatusCode.OK))


@test
def calls_of_one_channel_go_to_each_instance():
    seen = collections.Counter()
    for _ in range(20):
        _, call = unary("shop", "Echo").with_call(b"", timeout=20)
        seen[dict(call.initial_metadata())["who"]] += 1
    same(seen, {"one": 10, "two": 10})


@test
def port_of_its_own():
    # The authority is that of the address.
    with grpc.insecure_channel(f"127.0.0.1:{OWN_PORT}") as own:
        same(own.unary_unary("/shop.Orders/Echo")(b"own", timeout=20), b"own")


@test
def proxy_by_connect():
    with grpc.insecure_channel("shop:80", options=[("grpc.http_proxy", f"http://127.0.0.1:{sidecar.port}")]) as tunnel:
        same(tunnel.unary_unary("/shop.Orders/Echo")(b"tunnel", timeout=20), b"tunnel")


@test
def metadata():
    sent = [("echo-text", "a, b"), ("echo-text", "c"), ("echo-data-bin", bytes(range(256))), ("echo-none-bin", b"")]
    _, call = unary("shop", "Echo").with_call(b"", metadata=sent, timeout=20)
    same([each for each in map(tuple, call.initial_metadata()) if each[0].startswith("echo-")], sent)
    same([each for each in map(tuple, call.trailing_metadata()) if each[0].startswith("late-")],
         [(f"late-{key}", value) for key, value in sent])


@test
def compressed_messages():
    call = unary("shop", "Echo")
    same(call(LARGE[:200_000], compression=grpc.Compression.Gzip, timeout=20), LARGE[:200_000])


@test
def messages_of_4_mib():
    same(unary("shop", "Echo")(LARGE, timeout=30), LARGE)
    call = channel("shop").stream_stream("/shop.Orders/Both")(iter([LARGE] * 4), timeout=60)
    for message in call:
        same(message == LARGE + b"!", True)
    same(call.code(), grpc.StatusCode.OK)


@test
def many_calls_at_once():
    # More than one connection's streams.
    calls = [unary("alone", "Get").future(b"%d" % n, timeout=60) for n in range(600)]
    same([call.result() for call in calls], [b"%d" % n for n in range(600)])


@test
def deadline():
    begun = time.monotonic()
    same(code_of(lambda: unary("shop", "Sleep")(b"5", timeout=0.5)), 4)
    assert time.monotonic() - begun < 3
    remaining = float(unary("shop", "Remaining")(b"", timeout=7))
    # The client rounds it up.
    assert 5 < remaining < 7.5, remaining


@test
def cancellation():
    def cancelled():
        return int(unary("alone", "Cancelled")(b"", timeout=20))

    before = cancelled()
    call = channel("alone").unary_stream("/shop.Orders/Watch")(b"", timeout=60)
    next(call)
    same(cancelled(), before)
    call.cancel()
    same(call.code(), grpc.StatusCode.CANCELLED)
    soon("the instance is told", lambda: cancelled() == before + 1)
    # More than it takes to eject an instance that fails.
    for _ in range(20):
        late = unary("alone", "Sleep").future(b"0.3", timeout=20)
        time.sleep(0.02)
        late.cancel()
    same(unary("alone", "Echo")(b"there", timeout=20), b"there")


@test
def codes_pass_through():
    for code in range(1, 17):
        for call in (
            lambda: unary("shop", "Fail")(b"%d" % code, timeout=20),
            lambda: list(channel("shop").unary_stream("/shop.Orders/FailLate")(b"%d" % code, timeout=20)),
        ):
            error = error_of(call)
            same((error.code().value[0], error.details()), (code, f"no {code} \u00e4%\n"))
            metadata = dict(error.trailing_metadata())
            same((metadata.get("reason-bin"), metadata.get("x-outrigger-error")), (b"\x00\xff", None))
    same(code_of(lambda: unary("alone", "NoSuchMethod")(b"", timeout=20)), 12)


def sidecar_error(service, **options):
    error = error_of(lambda: unary(service, "Echo")(b"", **options))
    return error.code().value[0], dict(error.trailing_metadata()).get("x-outrigger-error")


@test
def code_of_no_such_service():
    same(sidecar_error("nosuch", timeout=20), (12, "unknown_service"))


@test
def code_of_a_dead_instance():
    same(sidecar_error("dead", timeout=20), (14, "connect_failed"))


@test
def code_of_a_hung_instance():
    begun = time.monotonic()
    same(code_of(lambda: unary("hung", "Echo")(b"", timeout=1)), 4)
    assert time.monotonic() - begun < 5


@test
def code_of_an_instance_that_dies_in_a_stream():
    call = channel("dying").unary_stream("/shop.Orders/Die")(b"", timeout=20)
    same(next(call), b"first")
    error = error_of(lambda: next(call))
    same(error.code().value[0], 14)
    # Trailers of the sidecar, and no reset that the client names UNAVAILABLE by itself.
    assert "RST_STREAM" not in error.details() and error.details(), error.details()


@test
def health_service():
    stub = health_pb2_grpc.HealthStub(channel("alone"))
    asked = health_pb2.HealthCheckRequest(service="shop.Orders")
    states = health_pb2.HealthCheckResponse
    same(stub.Check(asked, timeout=20).status, states.SERVING)
    same(stub.Check(health_pb2.HealthCheckRequest(), timeout=20).status, states.SERVING)
    same(code_of(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nosuch"), timeout=20)), 5)
    watch = stub.Watch(asked, timeout=20)
    same(next(watch).status, states.SERVING)
    unary("alone", "Health")(b"%d" % states.NOT_SERVING, timeout=20)
    same(next(watch).status, states.NOT_SERVING)
    watch.cancel()


class Load:
    """Threads that call `Get` one call after the other, until they are stopped."""

    def __init__(self, service):
        self.seen, self.failed = collections.Counter(), []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=[service]) for _ in range(8)]
        for thread in self.threads:
            thread.start()

    def work(self, service):
        call = unary(service, "Get")
        while not self.stopped.is_set():
            try:
                _, ended = call.with_call(b"x", timeout=20)
            except grpc.RpcError as error:
                self.failed.append((error.code().name, error.details(), tuple(error.trailing_metadata())))
            else:
                self.seen[dict(ended.trailing_metadata())["who"]] += 1

    def reaches(self, name):
        """Waits until an instance has answered further calls."""
        wanted = self.seen[name] + 20
        soon(f"{name} answers", lambda: self.seen[name] >= wanted)

    def end(self):
        """The calls that failed."""
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        return self.failed


@test
def killed_instance_under_load():
    stream = channel("killed").unary_stream("/shop.Orders/Watch")(b"", timeout=60)
    kept = dict(stream.initial_metadata())["who"]
    (lost,) = set(SERVICES["killed"]) - {kept}
    load = Load("killed")
    for name in (kept, lost):
        load.reaches(name)
    processes[lost].kill()
    processes[lost].wait()
    load.reaches(kept)
    load.reaches(kept)
    processes[lost] = serve(lost, PORTS[lost])
    load.reaches(lost)
    same(load.end(), [])
    # Calls were under way there, and were sent once more.
    repeated = re.search(r'^outrigger_retries_total\{service="killed",why="race"\} (\d+)', sidecar.metrics(), re.MULTILINE)
    assert repeated and int(repeated[1]) > 0, sidecar.metrics()
    # As if nothing had been: every message of the stream is there, in order.
    same([next(stream) for _ in range(60)], [b"%d" % n for n in range(60)])
    stream.cancel()


@test
def rolling_restart_under_load():
    load = Load("rolled")
    for name in SERVICES["rolled"]:
        load.reaches(name)
        processes[name].terminate()
        same(processes[name].wait(timeout=60), 0)
        processes[name] = serve(name, PORTS[name])
        load.reaches(name)
    # A server of grpcio that stops answers a call that has just come with CANCELLED, also without a sidecar.
    same([each for each in load.end() if each != ("CANCELLED", "CANCELLED", ())], [])


run_all()
