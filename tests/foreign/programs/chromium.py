#!/usr/bin/env python3
"""What Chromium sends to the name of a service, with a sidecar whose DNS listener answers such names with its own address.

A page of plain http makes the browser send an image's GET, forms, a fetch and a navigation: first to the instance itself, which shows that
the browser does send them, and then to the name of the service `orders`, where the sidecar refuses them.

`CONSUL_HTTP_ADDR` is the registry; `FOREIGN_DNS`, `FOREIGN_OUTBOUND` and `FOREIGN_ADMIN` are addresses of the sidecar.
"""

import http.server
import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import threading
import time
import traceback
import urllib.request

OUTBOUND_PORT = os.environ["FOREIGN_OUTBOUND"].rpartition(":")[2]
NAME = "orders.service.consul"
# Each makes the browser send one request to TO.
WAYS = {
    "img": '<img src="TO">',
    "form_get": '<form action="TO"><input name="a" value="b"></form><script>document.forms[0].submit()</script>',
    "form_post": '<form action="TO" method="post"><input name="a" value="b"></form><script>document.forms[0].submit()</script>',
    "fetch": '<script>fetch("TO", {mode: "no-cors", method: "POST", body: "b"}).catch(e => 0)</script>',
    "fetch_get": '<script>fetch("TO", {mode: "no-cors"}).catch(e => 0)</script>',
    "navigation": '<script>location = "TO"</script>',
}


class Server(http.server.BaseHTTPRequestHandler):
    """Pages below /page/, and the instance, which notes what reaches it."""

    pages = {}
    reached = []

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/page/"):
            body = self.pages[path]
        else:
            self.reached.append((self.command, path))
            body = "<p>the instance</p>"
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
PORT = server.server_port
threading.Thread(target=server.serve_forever, daemon=True).start()


def soon(what, condition):
    """Waits for a condition, at most 20 seconds."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within 20 s: {what}")


def resolve(name):
    """The first address of a name by the DNS listener."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)
    host, _, port = os.environ["FOREIGN_DNS"].rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.sendto(question, (host, int(port)))
        answer = udp.recv(2048)
    has_answer = struct.unpack("!H", answer[6:8])[0] > 0
    return socket.inet_ntoa(answer[-4:]) if has_answer else None


def register():
    body = {"Name": "orders", "ID": "orders", "Address": "127.0.0.1", "Port": PORT}
    url = os.environ["CONSUL_HTTP_ADDR"] + "/v1/agent/service/register"
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), method="PUT"), timeout=10).read()
    return soon("the name is answered", lambda: resolve(NAME))


def refused():
    """How many requests of browsers the sidecar has refused."""
    text = urllib.request.urlopen(f"http://{os.environ['FOREIGN_ADMIN']}/metrics", timeout=10).read().decode()
    found = re.search(r'^outrigger_refused_total\{reason="browser_refused"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


def browse(url):
    """Opens a page, and returns the document that is shown at the end."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                "chromium-headless-shell",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-proxy-server",
                f"--user-data-dir={profile}",
                # As the system's resolver would with the DNS listener behind it.
                f"--host-resolver-rules=MAP {NAME} {ADDRESS}, MAP *.example 127.0.0.1",
                "--virtual-time-budget=3000",
                "--timeout=20000",
                "--dump-dom",
                url,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def page_to(way, target):
    path = f"/page/{way}"
    Server.pages[path] = f"<!DOCTYPE html><title>page</title>{WAYS[way].replace('TO', target)}"
    return browse(f"http://page.example:{PORT}{path}")


def check(way):
    method = "POST" if way in ("form_post", "fetch") else "GET"
    page_to(way, f"http://instance.example:{PORT}/direct/{way}")
    soon(f"the browser sends {way}", lambda: (method, f"/direct/{way}") in Server.reached)
    before = refused()
    shown = page_to(way, f"http://{NAME}:{OUTBOUND_PORT}/{way}")
    soon(f"{way} is refused", lambda: refused() > before)
    if way in ("form_get", "form_post", "navigation"):
        assert "browser_refused" in shown and "dns.browsers" in shown, shown
    assert (method, f"/{way}") not in Server.reached, Server.reached


def typed():
    shown = browse(f"http://{NAME}:{OUTBOUND_PORT}/typed")
    assert "browser_refused" in shown, shown
    assert ("GET", "/typed") not in Server.reached, Server.reached


def no_browser():
    url = f"http://{ADDRESS}:{OUTBOUND_PORT}/no-browser"
    request = urllib.request.Request(url, headers={"Host": f"{NAME}:{OUTBOUND_PORT}"})
    assert urllib.request.urlopen(request, timeout=10).read() == b"<p>the instance</p>"


def run(name, test):
    try:
        test()
        print(f"ok {name}", flush=True)
    except Exception as error:
        traceback.print_exc()
        print(f"fail {name}: {str(error)[:300]!r}", flush=True)


ADDRESS = register()
for way in WAYS:
    run(way, lambda: check(way))
run("typed", typed)
run("no_browser", no_browser)
