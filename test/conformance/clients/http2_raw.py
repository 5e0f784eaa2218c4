"""Sends heads of HTTP/2 as they are, malformed or not, with hyper-h2: `http2_raw.py HOST CASES` (JSON). Prints for each name, answer, and what reached
the recorder at port 90."""
import json
import re
import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

host, cases = sys.argv[1], json.loads(sys.argv[2])
config = h2.config.H2Configuration(
    validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
)


def bytes_of(fields):
    return [(name.encode("latin1"), value.encode("latin1")) for name, value in fields]


def converse(case, number):
    wire = socket.create_connection((host, 80), 15)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    wire.sendall(connection.data_to_send())
    # An answer to a ping: the server's settings are known.
    connection.ping(b"settings")
    wire.sendall(connection.data_to_send())
    sent = False
    while True:
        data = wire.recv(65536)
        if not data:
            return "closed"
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.PingAckReceived) and not sent:
                sent = True
                body, trailers = case.get("body"), case.get("trailers")
                connection.send_headers(1, bytes_of([*case["fields"], ("x-case", str(number))]), end_stream=body is None and not trailers)
                if body is not None:
                    connection.send_data(1, body.encode("latin1"), end_stream=not trailers)
                if trailers:
                    connection.send_headers(1, bytes_of(trailers), end_stream=True)
            elif isinstance(event, h2.events.StreamReset):
                return "RST_STREAM %s" % int(event.error_code)
            elif isinstance(event, h2.events.ConnectionTerminated):
                return "GOAWAY %s" % int(event.error_code)
            elif isinstance(event, h2.events.ResponseReceived):
                return "status %s" % dict(event.headers)[b":status"].decode()
        wire.sendall(connection.data_to_send())


def taken(number):
    """What reached the recorder, but for what says of itself that it belongs to another case and came late."""
    with socket.create_connection((host, 90), 15) as wire:
        wire.sendall(b"take\n")
        text = b""
        while not text.endswith(b"\n"):
            text += wire.recv(65536)
        marks = ((arrived, re.search(r"\r\nx-case: (\d+)\r\n", arrived)) for arrived in json.loads(text))
        return [arrived for arrived, mark in marks if mark is None or mark[1] == str(number)]


for number, case in enumerate(cases):
    try:
        answer = converse(case, number)
    except Exception as e:
        answer = "failed %s %s" % (type(e).__name__, e)
    print(json.dumps({"name": case["name"], "answer": answer, "arrived": taken(number)}), flush=True)
