#!/usr/bin/env python3
"""curl, nghttp and h2load as apps and nginx as instances, with a sidecar between them, in every combination of HTTP/1.1 and HTTP/2.

One nginx has a port for each protocol. The service `h2` is its port of HTTP/2 (without TLS it speaks nothing else there), `h1` the other one.
"""

import hashlib
import os
import re
import subprocess
import sys
import time

from through import Sidecar, free_port, register, run_all, same, start, test

H1_PORT, H2_PORT = free_port(), free_port()
PORTS = {"h1": H1_PORT, "h2": H2_PORT}
SERVED = {"h1": "HTTP/1.1", "h2": "HTTP/2.0"}
APPS = {"--http1.1": "1.1", "--http2-prior-knowledge": "2"}
LARGE = os.urandom(10 << 20)
ROOM = os.getcwd()
# A root of its own user would not be read by nginx's workers.
USER = "user root;" if os.getuid() == 0 else ""
NGINX = f"""
{USER}
daemon off; worker_processes 2; pid {ROOM}/nginx.pid; error_log {ROOM}/nginx.errors;
events {{ worker_connections 1024; }}
http {{
    access_log off; large_client_header_buffers 16 32k; client_max_body_size 64m; default_type text/plain;
    client_body_temp_path {ROOM}/body; proxy_temp_path {ROOM}/proxy; fastcgi_temp_path {ROOM}/fastcgi;
    uwsgi_temp_path {ROOM}/uwsgi; scgi_temp_path {ROOM}/scgi;
    server {{
        listen 127.0.0.1:{H1_PORT};
        listen 127.0.0.1:{H2_PORT} http2;
        # It says GOAWAY after so many.
        keepalive_requests 300;
        root {ROOM}/files;
        location /up/ {{ dav_methods PUT; create_full_put_path on; }}
        location /seen {{ return 200 "$server_protocol $request_method $host $request_uri $http_upgrade$http_http2_settings\\n"; }}
        location /many {{ add_header Set-Cookie a=1; add_header Set-Cookie b=2; return 200 "$http_cookie"; }}
        location /teapot {{ return 418 "short"; }}
    }}
}}
"""

for name in ("files", "files/up"):
    os.mkdir(name)
for name, content in (("large", LARGE), ("small", b"small\n"), ("empty", b"")):
    with open(f"files/{name}", "wb") as file:
        file.write(content)
    # Readable for nginx, and for curl an upload.
    os.chmod(f"files/{name}", 0o644)
with open("nginx.conf", "w") as file:
    file.write(NGINX)
nginx = start(["nginx", "-p", ROOM, "-c", f"{ROOM}/nginx.conf", "-e", f"{ROOM}/nginx.errors"], "nginx", H1_PORT)
register("h1", "h1", H1_PORT)
register("h2", "h2", H2_PORT, protocol="http2")
sidecar = Sidecar()
ADDRESS = f"http://127.0.0.1:{sidecar.port}"


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, timeout=90, **options)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-400:]}"
    return done.stdout


def curl(app, service, path, *more, **options):
    """What curl prints of a request: to the service by its Host."""
    return run("curl", "-sS", app, "-H", f"Host: {service}", f"{ADDRESS}{path}", *more, **options)


def digest(data):
    return hashlib.sha256(data).hexdigest()


def digest_of(path):
    with open(path, "rb") as file:
        return digest(file.read())


def each():
    return [(app, service) for app in APPS for service in PORTS]


@test
def curl_get():
    for app, service in each():
        printed = curl(app, service, "/seen?a=%20b&c", "-w", "%{http_version} %{http_code}")
        same(printed.decode(), f"{SERVED[service]} GET {service} /seen?a=%20b&c \n{APPS[app]} 200")


@test
def curl_head_range_and_conditions():
    for app, service in each():
        head = curl(app, service, "/large", "-I").decode().lower()
        assert f"content-length: {len(LARGE)}" in head, head
        same(curl(app, service, "/large", "-r", "1000-1999"), LARGE[1000:2000])
        etag = re.search(r"etag: (\S+)", head)[1]
        same(curl(app, service, "/large", "-H", f"If-None-Match: {etag}", "-w", "%{http_code}"), b"304")
        same(curl(app, service, "/empty", "-w", "%{http_code}"), b"200")
        same(curl(app, service, "/teapot", "-w", "%{http_code}"), b"short418")


@test
def curl_cookies():
    for app, service in each():
        printed = curl(app, service, "/many", "-H", "Cookie: x=1; y=2", "-i").decode().lower()
        same(re.findall(r"set-cookie: (\S+)", printed), ["a=1", "b=2"])
        assert printed.endswith("x=1; y=2"), printed


@test
def curl_download_of_10_mib():
    for app, service in each():
        same(digest(curl(app, service, "/large")), digest(LARGE))


@test
def curl_upload_of_10_mib():
    for n, (app, service) in enumerate(each()):
        same(curl(app, service, f"/up/known-{n}", "-T", "files/large", "-w", "%{http_code}"), b"201")
        same(digest_of(f"files/up/known-{n}"), digest(LARGE))


@test
def curl_upload_without_a_length():
    for n, (app, service) in enumerate(each()):
        # nginx takes no PUT without a length over HTTP/1.1 but as chunks; curl reads standard input until it ends.
        same(curl(app, service, f"/up/unknown-{n}", "-T", "-", "-w", "%{http_code}", input=LARGE), b"201")
        same(digest_of(f"files/up/unknown-{n}"), digest(LARGE))


@test
def curl_expect_100_continue():
    for n, (app, service) in enumerate(each()):
        more = ["-T", "files/large", "-H", "Expect: 100-continue", "--expect100-timeout", "30", "-w", "%{http_code}"]
        begun = time.monotonic()
        same(curl(app, service, f"/up/expected-{n}", *more), b"201")
        assert time.monotonic() - begun < 20, "curl has waited in vain"
        same(digest_of(f"files/up/expected-{n}"), digest(LARGE))


@test
def upload_that_is_refused():
    # The response is there before the upload has ended.
    for service in PORTS:
        same(curl("--http1.1", service, "/small", "-T", "files/large", "-o", "/dev/null", "-w", "%{http_code}"), b"405")
        # curl 7.88 takes the reset without an error (RFC 9113 §8.1) for a failure, also of nginx; nghttp does not.
        printed = run("nghttp", "-nv", "--no-dep", "-H", ":method: PUT", "-d", "files/large", f"{ADDRESS}/svc/{service}/small").decode()
        assert ":status: 405" in printed and "error_code=" in printed, printed[-2000:]
        same(set(re.findall(r"error_code=(\w+)", printed)), {"NO_ERROR"})


@test
def curl_upgrade_h2c_is_not_taken():
    for service in PORTS:
        printed = curl("--http2", service, "/seen", "-w", "%{http_version}")
        same(printed.decode(), f"{SERVED[service]} GET {service} /seen \n1.1")


@test
def curl_in_parallel():
    # Over HTTP/1.1 alone: with prior knowledge curl 7.88 fails here with nginx, too.
    for service in PORTS:
        url = f"{ADDRESS}/small?[1-200]"
        printed = run("curl", "-sS", "--http1.1", "-Z", "--parallel-max", "50", "-H", f"Host: {service}", url)
        same(printed, b"small\n" * 200)


@test
def curl_with_a_proxy():
    for service in PORTS:
        printed = run("curl", "-sS", "-x", ADDRESS, f"http://{service}/seen").decode()
        same(printed, f"{SERVED[service]} GET {service} /seen \n")
    # CONNECT: the instance speaks with curl itself.
    for app, service in (("--http1.1", "h1"), ("--http2-prior-knowledge", "h2")):
        printed = run("curl", "-sS", app, "-p", "-x", ADDRESS, f"http://{service}/seen", "-w", "%{http_version}").decode()
        same(printed, f"{SERVED[service]} GET {service} /seen \n{APPS[app]}")


@test
def curl_no_such_service():
    for app, version in APPS.items():
        printed = curl(app, "nosuch", "/", "-i", "-w", "%{http_version}").decode()
        assert " 404" in printed and "x-outrigger-error: unknown_service" in printed and printed.endswith(version), printed


@test
def nghttp_downloads_at_once():
    for service in PORTS:
        printed = run("nghttp", "-m", "4", f"{ADDRESS}/svc/{service}/large")
        same(len(printed), 4 * len(LARGE))
        same(digest(run("nghttp", f"{ADDRESS}/svc/{service}/large")), digest(LARGE))
        # A window of 64 KiB for each stream and for the connection.
        same(digest(run("nghttp", "-w", "16", "-W", "16", f"{ADDRESS}/svc/{service}/large")), digest(LARGE))


@test
def nghttp_upload_with_trailers():
    for service in PORTS:
        run("nghttp", "-H", ":method: PUT", "-d", "files/large", "--trailer", "sum: 1", f"{ADDRESS}/svc/{service}/up/nghttp-{service}")
        same(digest_of(f"files/up/nghttp-{service}"), digest(LARGE))


@test
def nghttp_padding_and_continuation():
    # It adds fields that do not fit in one frame.
    for service in PORTS:
        same(run("nghttp", "--continuation", "-b", "200", f"{ADDRESS}/svc/{service}/small"), b"small\n")


def h2load(path, count, *more):
    printed = run("h2load", "-n", str(count), *more, f"{ADDRESS}{path}").decode()
    found = re.search(r"requests: .*", printed)
    found = found and found[0]
    same(found, f"requests: {count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout")
    codes = re.search(r"status codes: .*", printed)[0]
    same(codes, f"status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx")


@test
def h2load_many_streams():
    for service in PORTS:
        h2load(f"/svc/{service}/small", 8000, "-c", "4", "-m", "100")


@test
def h2load_http1():
    for service in PORTS:
        h2load(f"/svc/{service}/small", 4000, "-c", "20", "--h1")


@test
def h2load_large_responses():
    for service in PORTS:
        h2load(f"/svc/{service}/large", 20, "-c", "2", "-m", "5")


@test
def h2load_posts():
    with open("posted", "wb") as file:
        file.write(LARGE[: 64 << 10])
    for service in PORTS:
        h2load(f"/svc/{service}/seen", 1000, "-c", "4", "-m", "10", "-d", "posted")


@test
def reload_of_nginx_under_load():
    # Each reload ends the old workers in order: GOAWAY over HTTP/2.
    command = ["h2load", "-D", "8", "-c", "4", "-m", "10", f"{ADDRESS}/svc/h2/small"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as load:
        for _ in range(4):
            time.sleep(1.5)
            run("nginx", "-p", ROOM, "-c", f"{ROOM}/nginx.conf", "-e", f"{ROOM}/nginx.errors", "-s", "reload")
        printed = load.communicate(timeout=60)[0].decode()
    found = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored", printed)
    codes = re.search(r"status codes: (\d+) 2xx, (.*)", printed)
    assert int(found[1]) > 500, printed
    same((found[2], found[3], codes[2]), ("0", "0", "0 3xx, 0 4xx, 0 5xx"))


run_all()
nginx.terminate()
sys.exit(0)
