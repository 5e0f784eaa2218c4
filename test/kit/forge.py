# Runs in a pod with CAP_NET_RAW and CAP_NET_ADMIN: forges what the mesh could be fooled with, and tells in one line of JSON what came of it.
# forge.py connect ADDRESS PORT [source=IP] [mark=N] [how=address|transparent|freebind] | syn SOURCE ADDRESS PORT | arp IP
import json, os, random, socket, struct, subprocess, sys

IP_FREEBIND, IP_TRANSPARENT, IPV6_FREEBIND, IPV6_TRANSPARENT = 15, 19, 78, 75


def connect(to, port, source=None, mark=None, how="address"):
    six = ":" in to
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    s.settimeout(2)
    if mark:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(mark, 0))
    added = None
    try:
        if source and how == "address":
            added = ["ip", "addr", "del", f"{source}/{128 if six else 32}", "dev", "eth0"]
            subprocess.run(["ip", "addr", "add", *added[3:], *(["nodad"] if six else [])], check=True)
        elif source:
            level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
            free, transparent = (IPV6_FREEBIND, IPV6_TRANSPARENT) if six else (IP_FREEBIND, IP_TRANSPARENT)
            s.setsockopt(level, transparent if how == "transparent" else free, 1)
        if source:
            s.bind((source, 0))
        s.connect((to, int(port)))
        s.sendall(b"forged")
        s.shutdown(socket.SHUT_WR)
        said = s.recv(6)
        return {"through": said == b"forged"}
    except OSError as e:
        return {"through": False, "error": str(e)}
    finally:
        s.close()
        if added:
            subprocess.run(added, check=True)


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def syn(source, to, port):
    """Sends a SYN by a raw socket; answered: whether a SYN-ACK for it came back here."""
    a, b = socket.inet_aton(source), socket.inet_aton(to)
    own = random.randrange(40000, 60000)
    head = lambda check: struct.pack("!HHLLBBHHH", own, int(port), 7, 0, 5 << 4, 2, 1024, check, 0)
    tcp = head(checksum(struct.pack("!4s4sBBH", a, b, 0, 6, 20) + head(0)))
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, a, b)
    heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    heard.settimeout(0.7)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(ip + tcp, (to, 0))
    try:
        while True:
            packet = heard.recv(100)
            if packet[12:16] == b and packet[22:24] == struct.pack("!H", own) and packet[33] & 2:
                return {"answered": True}
    except OSError:
        return {"answered": False}


def arp(ip):
    """Tells the link that the address is here."""
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    mac, all_of_them = s.getsockname()[4], b"\xff" * 6
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, mac, socket.inet_aton(ip), all_of_them, socket.inet_aton(ip))
    s.send(all_of_them + mac + struct.pack("!H", 0x0806) + body)
    return {"sent": True}


verb, *words = sys.argv[1:]
named = dict(w.split("=", 1) for w in words if "=" in w)
plain = [w for w in words if "=" not in w]
print(json.dumps({"connect": connect, "syn": syn, "arp": arp}[verb](*plain, **named)))
