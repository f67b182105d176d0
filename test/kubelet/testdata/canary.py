# SPDX-License-Identifier: Apache-2.0
# Counts packets of a machine in the network namespace of every Pod, also of Pods that are
# made later, and the VMMs of the machine. It writes what it has seen to a file, as JSON. It
# opens no namespace itself, so that none outlives its Pod because of it.
# usage: canary.py FILE MACHINE-IP BUNDLE-IP VM
# VM is the name of the machine's folder at smolvm.
import glob, os, re, subprocess, sys, time

path, machine, bundle, vm = sys.argv[1:]
# Priority 300 is after everything else, so that only what has passed is counted.
ruleset = "".join(
    f"""table ip canary {{
  counter allowed {{ }}
  counter strayed {{ }}
  chain at-{hook} {{
    type filter hook {hook} priority 300;
    ip saddr {machine} ip daddr {bundle} tcp dport 8888 counter name allowed accept
    ip saddr {machine} counter name strayed
  }}
}}
""" for hook in ("prerouting", "input", "forward"))
seen, most = {}, 0


def nft(namespace, *args, stdin=""):
    return subprocess.run(["nsenter", "--net=" + namespace, "nft", *args], input=stdin, capture_output=True, text=True, timeout=60)


def identity(namespace):
    """A file of a namespace that has gone may be used again for another."""
    return namespace, os.stat(namespace).st_ino


def find():
    for namespace in glob.glob("/run/netns/cni-*"):
        try:
            key = identity(namespace)
        except FileNotFoundError:
            continue
        if key not in seen and nft(namespace, "-f", "-", stdin=ruleset).returncode == 0:
            seen[key] = {"allowed": 0, "strayed": 0}


def count():
    for key in list(seen):
        try:
            if identity(key[0]) != key:
                continue
        except FileNotFoundError:
            continue
        for name, packets in re.findall(r'"name": "(allowed|strayed)".*?"packets": (\d+)', nft(key[0], "-j", "list", "counters").stdout):
            seen[key][name] = int(packets)


def machines():
    n = 0
    for cmdline in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            argv = open(cmdline, "rb").read()
        except OSError:
            continue
        n += b"\0_boot-vm\0" in argv and f"/vms/{vm}/".encode() in argv
    return n


turn = 0
while True:
    most = max(most, machines())
    find()
    if turn % 5 == 0:
        count()
        allowed, strayed = (sum(s[name] for s in seen.values()) for name in ("allowed", "strayed"))
        with open(path + ".new", "w") as f: # a node's Python has no module json
            f.write(f'{{"Namespaces": {len(seen)}, "Machines": {most}, "Allowed": {allowed}, "Strayed": {strayed}}}')
        os.rename(path + ".new", path)
    turn += 1
    time.sleep(0.2)
