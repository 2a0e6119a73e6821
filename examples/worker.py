#!/usr/bin/env python3
# A worker in Python: ready, then a heartbeat every 2 seconds, over NOTIFY_SOCKET.
# Standard library only; without hive it runs alone, and it outlives a restart of hive.
import contextlib, os, socket, time

path, sock = os.environ.get("NOTIFY_SOCKET"), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.settimeout(1)

def say(words):
    with contextlib.suppress(OSError):  # hive is away; it will hear the next one
        path and sock.sendto(words.encode(), path)

time.sleep(1)  # load the model here
say("READY=1")
while True:
    say("WATCHDOG=1\nX_HIVE_IN_FLIGHT=0")
    time.sleep(2)
