"""Workers that accept from one socket, as gunicorn's do, and clients for them."""

import http.client
import http.server
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

WORKERS = 16
CLIENTS = 8
REQUESTS = 250


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def worker(listener):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = http.server.HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()


def client(address):
    workers = set()
    for _ in range(REQUESTS):
        connection = http.client.HTTPConnection(*address, timeout=20)
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        workers.add(int(response.read()))
        connection.close()
    return workers


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    workers = []
    for _ in range(WORKERS):
        pid = os.fork()
        if pid == 0:
            worker(listener)
        workers.append(pid)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = clients.map(client, [listener.getsockname()] * CLIENTS)
        answered = set().union(*answers)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    ends = [os.waitpid(pid, 0)[1] for pid in workers]
    assert ends == [0] * WORKERS, ends
    # The kernel wakes whom it likes, but not always the same.
    assert len(answered) >= WORKERS // 4 and answered <= set(workers), answered


main()
