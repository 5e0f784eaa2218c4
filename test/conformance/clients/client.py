"""Clients of Python: `client.py requests|httpx BASE PLAN` (clients/plan.ts); httpx speaks HTTP/2 without TLS."""
import hashlib
import sys

which, base, plan = sys.argv[1:4]


def pattern(size):
    return bytes(i % 251 for i in range(size))


def in_pieces(body):
    yield body[:1000]
    yield body[1000:]


if which == "requests":
    import requests

    session = requests.Session()

    def ask(method, path, body, headers):
        answer = session.request(
            method, base + path, data=body, headers=headers, allow_redirects=False, timeout=60
        )
        return answer.status_code, answer.content, answer.headers.get("x-back", "")

else:
    import httpx

    client = httpx.Client(http1=False, http2=True, timeout=60)

    def ask(method, path, body, headers):
        answer = client.request(method, base + path, content=body, headers=headers)
        return answer.status_code, answer.content, answer.headers.get("x-back", "")


for line in plan.rstrip("\n").split("\n"):
    name, method, path, size, field = line.split("\t")
    if field.startswith("expect:"):
        print(name, "cannot", which + " knows no 100-continue", sep="\t", flush=True)
        continue
    body = pattern(int(size.lstrip("c")))
    if size.startswith("c"):
        body = in_pieces(body)
    headers = dict([field.split(":", 1)]) if field else {}
    try:
        status, got, back = ask(method, path, body or None, headers)
        print(name, status, len(got), hashlib.sha256(got).hexdigest()[:16], back, sep="\t", flush=True)
    except Exception as e:
        print(name, "error", type(e).__name__ + " " + str(e).replace("\n", " "), sep="\t", flush=True)
