# SPDX-License-Identifier: Apache-2.0
# Prints each marker found in the frames on a link once, until it sees the last
# marker or its time is up. The link is in promiscuous mode.
# usage: capture.py LINK PREFIX LAST SECONDS
import re, socket, struct, sys, time

link, prefix, last, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
everything = socket.htons(3)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, everything)
s.bind((link, 3))
# SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC
s.setsockopt(263, 1, struct.pack("iHH8s", socket.if_nametoindex(link), 1, 0, b""))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
s.settimeout(0.2)
print("ready", flush=True)
marker, seen, end = re.compile(prefix.encode() + b"[a-z0-9-]+;"), set(), time.time() + seconds
while time.time() < end:
    try:
        frame = s.recv(65536)
    except socket.timeout:
        continue
    for found in marker.findall(frame):
        if found not in seen:
            seen.add(found)
            print(found.decode()[:-1], flush=True)
    if last.encode() + b";" in frame:
        sys.exit(0)
