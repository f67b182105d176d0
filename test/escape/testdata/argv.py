# SPDX-License-Identifier: Apache-2.0
# rewrite PID WORD…: makes a process look as if it had been started with this command line.
# lookalike WORD…: starts a process as user nobody with this command line, and prints its PID.
import os, sys, time

def rewrite(pid, words):
    stat = open("/proc/%d/stat" % pid).read()
    fields = stat[stat.rindex(")") + 2:].split()
    start, end = int(fields[45]), int(fields[46])  # fields 48 and 49
    argv = "\0".join(words).encode()[:end - start - 1]
    with open("/proc/%d/mem" % pid, "r+b", buffering=0) as mem:
        mem.seek(start)
        mem.write(argv + bytes(end - start - len(argv)))

if sys.argv[1] == "rewrite":
    rewrite(int(sys.argv[2]), sys.argv[3:])
    sys.exit()

words = sys.argv[2:]
ready, notify = os.pipe()
pid = os.fork()
if pid == 0:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.chdir("/")
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    os.set_inheritable(notify, True)
    wait = "import os, time; os.write(%d, b'x'); os.close(%d); time.sleep(600)" % (notify, notify)
    os.execv(sys.executable, [words[0], "-c", wait, "x" * len("\0".join(words))])
os.close(notify)
if os.read(ready, 1) != b"x":
    sys.exit("the look-alike did not start")
rewrite(pid, words)
print(pid)
