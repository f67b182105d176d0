# SPDX-License-Identifier: Apache-2.0
# Sends frames that no honest guest sends, but that root in a machine's namespace can.
# Each frame contains a marker: PREFIX, the frame's name and a semicolon. Prints the names.
# usage: send.py PREFIX ONLY OWN-IP BUNDLE-IP BUNDLE-MAC GATEWAY-IP GATEWAY-MAC
# ONLY is one name, or all. The namespace must have exactly one link besides lo.
import socket, struct, sys, time

prefix, only, own_ip, bundle_ip, bundle_mac, gateway_ip, gateway_mac = sys.argv[1:]
link = [name for _, name in socket.if_nameindex() if name != "lo"][0]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind((link, 0))
own_mac = wire.getsockname()[4]


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ip(text):
    return socket.inet_aton(text)


bundle_mac, gateway_mac, everybody = mac(bundle_mac), mac(gateway_mac), b"\xff" * 6
stranger_mac = mac("02:de:ad:be:ef:01")
stranger_ip = bundle_ip.rsplit(".", 1)[0] + ".200"
IPV4, ARP, IPV6, VLAN, QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8
TCP, UDP, ICMP, GRE, ICMPV6 = 6, 17, 1, 47, 58
DECLARED, UNDECLARED = 8888, 9418


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def sealed(segment, at, pseudo):
    """Returns the segment with its checksum, which also covers the pseudo header."""
    return segment[:at] + struct.pack("!H", checksum(pseudo + segment)) + segment[at + 2:]


def pseudo4(src, dst, proto, segment):
    return ip(src) + ip(dst) + struct.pack("!BBH", 0, proto, len(segment))


def tcp(src, dst, port, data):
    s = struct.pack("!HHIIBBHHH", 45678, port, 1, 0, 5 << 4, 2, 1024, 0, 0) + data
    return sealed(s, 16, pseudo4(src, dst, TCP, s))


def udp(src, dst, port, data):
    s = struct.pack("!HHHH", 45678, port, 8 + len(data), 0) + data
    return sealed(s, 6, pseudo4(src, dst, UDP, s))


def ipv4(src, dst, proto, body, fragment=0, options=b"", number=1):
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), number, fragment, 64, proto, 0) + ip(src) + ip(dst) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ipv6(dst, proto, body):
    src, to = socket.inet_pton(socket.AF_INET6, "fe80::77"), socket.inet_pton(socket.AF_INET6, dst)
    at = {UDP: 6, TCP: 16, ICMPV6: 2}[proto]
    body = sealed(body, at, src + to + struct.pack("!IHBB", len(body), 0, 0, proto))
    return struct.pack("!IHBB", 6 << 28, len(body), proto, 255) + src + to + body


def frame(kind, body, to=None, by=None, tags=b""):
    return (to or bundle_mac) + (by or own_mac) + tags + struct.pack("!H", kind) + body


def arp(op, sender_mac, sender_ip, target_ip, data):
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, op) + sender_mac + ip(sender_ip) + b"\0" * 6 + ip(target_ip) + data


def tag(kind, vlan):
    return struct.pack("!HH", kind, vlan)


def syn(m, port, src=None, dst=None, **how):
    src, dst = src or own_ip, dst or bundle_ip
    return ipv4(src, dst, TCP, tcp(src, dst, port, m), **how)


def fragments(proto, segment, first, number):
    """Returns two fragments of a datagram; the first has `first` bytes."""
    return [frame(IPV4, ipv4(own_ip, bundle_ip, proto, segment[:first], 0x2000, number=number)),
            frame(IPV4, ipv4(own_ip, bundle_ip, proto, segment[first:], first // 8, number=number))]


def hidden_by_options(m):
    # The declared port is where the ports would be in a header without options.
    return syn(m, UNDECLARED, options=struct.pack("!HH", 0x0101, DECLARED))


CASES = {
    "allowed": lambda m: [frame(IPV4, syn(m, DECLARED))],
    "arp-claims-bundle": lambda m: [frame(ARP, arp(2, own_mac, bundle_ip, bundle_ip, m), everybody)],
    "arp-claims-gateway": lambda m: [frame(ARP, arp(2, own_mac, gateway_ip, gateway_ip, m), everybody)],
    "arp-claims-gateway-to-the-bundle": lambda m: [frame(ARP, arp(2, own_mac, gateway_ip, bundle_ip, m))],
    "arp-claims-own-address-elsewhere": lambda m: [frame(ARP, arp(2, stranger_mac, own_ip, bundle_ip, m))],
    "arp-asks-for-gateway": lambda m: [frame(ARP, arp(1, own_mac, own_ip, gateway_ip, m), everybody)],
    "source-address": lambda m: [frame(IPV4, syn(m, DECLARED, src=stranger_ip))],
    "source-address-of-the-gateway": lambda m: [frame(IPV4, syn(m, DECLARED, src=gateway_ip))],
    "source-mac": lambda m: [frame(IPV4, syn(m, DECLARED), by=stranger_mac)],
    "source-mac-of-the-bundle": lambda m: [frame(ARP, arp(1, own_mac, own_ip, bundle_ip, m), everybody, bundle_mac)],
    "syn-to-undeclared-port": lambda m: [frame(IPV4, syn(m, UNDECLARED))],
    "syn-to-gateway": lambda m: [frame(IPV4, syn(m, DECLARED, dst=gateway_ip), gateway_mac)],
    "syn-to-internet-by-gateway": lambda m: [frame(IPV4, syn(m, 80, dst="203.0.113.10"), gateway_mac)],
    "syn-to-internet-by-bundle": lambda m: [frame(IPV4, syn(m, 80, dst="203.0.113.10"))],
    # The IP destination is right, but the MAC address makes the bridge deliver the frame elsewhere.
    "syn-to-declared-port-by-gateway": lambda m: [frame(IPV4, syn(m, DECLARED), gateway_mac)],
    "syn-to-declared-port-by-stranger": lambda m: [frame(IPV4, syn(m, DECLARED), stranger_mac)],
    "syn-to-declared-port-by-everybody": lambda m: [frame(IPV4, syn(m, DECLARED), everybody)],
    "arp-asks-gateway-for-bundle": lambda m: [frame(ARP, arp(1, own_mac, own_ip, bundle_ip, m), gateway_mac)],
    "udp-to-declared-port": lambda m: [frame(IPV4, ipv4(own_ip, bundle_ip, UDP, udp(own_ip, bundle_ip, DECLARED, m)))],
    "udp-broadcast": lambda m: [frame(IPV4, ipv4(own_ip, "255.255.255.255", UDP, udp(own_ip, "255.255.255.255", 67, m)), everybody)],
    "icmp": lambda m: [frame(IPV4, ipv4(own_ip, bundle_ip, ICMP, sealed(struct.pack("!BBHHH", 8, 0, 0, 1, 1) + m, 2, b"")))],
    "gre": lambda m: [frame(IPV4, ipv4(own_ip, bundle_ip, GRE, struct.pack("!HH", 0, IPV4) + syn(m, UNDECLARED)))],
    "fragments-of-udp": lambda m: fragments(UDP, udp(own_ip, bundle_ip, 9100, m * 4), 16, 21),
    "fragments-to-undeclared-port": lambda m: fragments(TCP, tcp(own_ip, bundle_ip, UNDECLARED, m * 4), 24, 22),
    "fragments-to-declared-port": lambda m: fragments(TCP, tcp(own_ip, bundle_ip, DECLARED, m * 4), 24, 23),
    "fragments-cut-in-the-tcp-header": lambda m: fragments(TCP, tcp(own_ip, bundle_ip, DECLARED, m * 4), 8, 24),
    "ip-options-hide-the-port": lambda m: [frame(IPV4, hidden_by_options(m))],
    "ipv6-multicast": lambda m: [frame(IPV6, ipv6("ff02::1", UDP, struct.pack("!HHHH", 45678, DECLARED, 8 + len(m), 0) + m), mac("33:33:00:00:00:01"))],
    "ipv6-to-the-bundle": lambda m: [frame(IPV6, ipv6("fe80::2", TCP, struct.pack("!HHIIBBHHH", 45678, DECLARED, 1, 0, 5 << 4, 2, 1024, 0, 0) + m))],
    "ipv6-neighbour-claim": lambda m: [frame(IPV6, ipv6("ff02::1", ICMPV6, struct.pack("!BBHI", 136, 0, 0, 0x20000000) + b"\xfe\x80" + b"\0" * 13 + b"\x01" + b"\x02\x01" + own_mac + m), mac("33:33:00:00:00:01"))],
    "vlan-to-undeclared-port": lambda m: [frame(IPV4, syn(m, UNDECLARED), tags=tag(VLAN, 5))],
    "vlan-to-declared-port": lambda m: [frame(IPV4, syn(m, DECLARED), tags=tag(VLAN, 5))],
    "priority-tag-to-undeclared-port": lambda m: [frame(IPV4, syn(m, UNDECLARED), tags=tag(VLAN, 7 << 13))],
    "two-vlan-tags": lambda m: [frame(IPV4, syn(m, UNDECLARED), tags=tag(QINQ, 5) + tag(VLAN, 6))],
    "unknown-ethertype": lambda m: [frame(0x88B5, m.ljust(46), everybody)],
    "no-ethertype": lambda m: [frame(len(m) + 3, b"\xaa\xaa\x03" + m, everybody)],
}


def raw_socket(m):
    """Sends through SOCK_RAW, where the kernel chooses the route."""
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(syn(m, UNDECLARED), (bundle_ip, 0))
    s.sendto(syn(m, UNDECLARED, src=stranger_ip), (bundle_ip, 0))


for name, make in list(CASES.items()) + [("raw-socket", None), ("last", lambda m: [frame(IPV4, syn(m, DECLARED), everybody)])]:
    if only != name and (only != "all" or name == "last"):
        continue
    m = (prefix + name + ";").encode()
    for _ in range(2):
        if make is None:
            raw_socket(m)
            continue
        for f in make(m):
            wire.send(f)
    print(name)
    time.sleep(0.002)
