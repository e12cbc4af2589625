"""A reward server to test against, run as `python reward_server.py LOG [PORT]`: it prints its port.

The path of a request picks the behaviour.

Every request is appended to LOG as one JSON line. An honest answer is the number of characters of each completion.
"""

import http.server
import json
import os
import sys
import threading
import time
from pathlib import Path

LOG = sys.argv[1]
FAILURES = {}
FLIGHT = {"now": 0, "most": 0}
LOCK, FOUR = threading.Lock(), threading.Barrier(4)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(LOG, "a") as log:
            record = {"path": self.path, "authorization": self.headers.get("Authorization"), "body": body}
            log.write(json.dumps(record) + "\n")
        getattr(self, "do_" + self.path.split("?")[0].strip("/").partition("/")[0])(body)

    def answer(self, status, text, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_ok(self, body):
        self.answer(200, json.dumps({"rewards": [len(c) for c in body["completions"]]}))

    def do_third(self, body):
        self.answer(200, json.dumps({"rewards": [1 / 3] * len(body["completions"])}))

    def do_sum_column(self, body):
        self.answer(200, json.dumps({"rewards": body["columns"]["target"]}))

    def do_nan(self, body):
        rewards = ["NaN" if "bad" in c else "1.0" for c in body["completions"]]
        self.answer(200, '{"rewards": [' + ", ".join(rewards) + "]}")

    def do_all_nan(self, body):
        self.answer(200, json.dumps({"rewards": [float("nan")] * len(body["completions"])}))

    def do_short(self, body):
        self.answer(200, json.dumps({"rewards": [1.0]}))

    def do_nojson(self, body):
        self.answer(200, "<html>hello</html>")

    def do_nokey(self, body):
        self.answer(200, json.dumps({"scores": [1.0]}))

    def do_echo400(self, body):
        self.answer(400, f"bad request to {self.path} with {self.headers.get('Authorization')}")

    def do_unauthorized(self, body):
        self.answer(401, "who are you")

    def do_redirect(self, body):
        self.answer(307, "", Location="/ok")

    def do_flaky(self, body):
        """Fails with the statuses in the path, one a request, then answers: /flaky/503/429."""
        statuses = self.path.split("/")[2:]
        done = FAILURES.get(self.path, 0)
        FAILURES[self.path] = done + 1
        self.answer(int(statuses[done]), "later") if done < len(statuses) else self.do_ok(body)

    def do_slow(self, body):
        self.rfile.read()  # until the client leaves

    def do_crowd(self, body):
        """Honest; four requests wait for each other, and the most that were seen at a time are left in LOG.most."""
        with LOCK:
            FLIGHT["now"] += 1
            FLIGHT["most"] = max(FLIGHT.values())
            Path(LOG + ".most").write_text(str(FLIGHT["most"]))
        FOUR.wait()
        with LOCK:
            FLIGHT["now"] -= 1
        self.do_ok(body)

    def do_drip(self, body):
        """A byte now and then: no single read ever times out."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while True:  # until the client leaves
            self.wfile.write(b" ")
            time.sleep(0.02)

    def do_drip_header(self, body):
        """A header that never ends, a byte now and then."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:  # until the client leaves
            self.wfile.write(b"x")
            time.sleep(0.02)

    def do_flood(self, body):
        """An answer without end."""
        self.send_response(200)
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b" " * (1 << 20))

    def do_switch(self, body):
        """As told by the file LOG.mode, `COUNT NAME`: honest for so many requests, then as the path NAME."""
        mode = LOG + ".mode"
        told = Path(mode).read_text() if os.path.exists(mode) else "0 ok"
        count, name = told.split()
        FAILURES[told] = FAILURES.get(told, 0) + 1
        getattr(self, f"do_{name if FAILURES[told] > int(count) else 'ok'}")(body)

    def do_hangup(self, body):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"rewards": [1.0')

    def do_die(self, body):
        self.do_hangup(body)
        self.wfile.flush()
        os._exit(1)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
