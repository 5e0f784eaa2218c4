# Plays the CNI plugin toward a ztunnel: listens on a unix socket, tells it of pods and hands their network namespaces over (Istio's ZDS, published as zds.proto).
# zds.py SOCKET; on standard input a line of JSON for each change: {"add": {"uid", "name", "namespace", "serviceAccount", "netns"}} or {"del": UID}.
# On standard output a line for each: what the ztunnel answered.
import json, os, select, socket, sys


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def added(pod):
    who = field(1, pod["name"]) + field(2, pod["namespace"]) + field(3, pod["serviceAccount"])
    return field(1, field(1, pod["uid"]) + field(2, who))


def tell(**line):
    print(json.dumps(line), flush=True)


def ask(peer, what, message, netns=None):
    """Sends one message and waits for its answer: an empty Ack, or one that says what is wrong."""
    if netns is None:
        peer.send(message)
    else:
        fd = os.open(netns, os.O_RDONLY)
        socket.send_fds(peer, [message], [fd])
        os.close(fd)
    answer = peer.recv(4096)
    if answer == b"":
        return False
    tell(told=what, error=answer[4:].decode(errors="replace") if len(answer) > 4 else "")
    return True


def greet(peer, pods):
    """What there is, and that it is all."""
    if peer.recv(4096) == b"":
        return False
    return all(ask(peer, uid, added(pod), pod["netns"]) for uid, pod in pods.items()) and ask(peer, "all", field(3, b""))


path = sys.argv[1]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(path)
listener.listen(1)
tell(listening=path)
pods, peer = {}, None
lines = open(0, "rb", buffering=0)
while True:
    ready, _, _ = select.select([listener, lines] + ([peer] if peer else []), [], [])
    if listener in ready:
        peer, _ = listener.accept()
        if not greet(peer, pods):
            peer = None
    elif peer in ready and peer.recv(4096) == b"":
        tell(gone=True)
        peer = None
    if lines in ready:
        line = lines.readline()
        if line == b"":
            break
        change = json.loads(line)
        if "add" in change:
            pod = change["add"]
            pods[pod["uid"]] = pod
            if not peer:
                tell(held=pod["uid"])
            elif not ask(peer, pod["uid"], added(pod), pod["netns"]):
                peer = None
        else:
            pods.pop(change["del"], None)
            if not peer:
                tell(held=change["del"])
            elif not ask(peer, change["del"], field(2, field(2, change["del"]))):
                peer = None
