#!/usr/bin/env python3
# A worker in Python: ready, then a heartbeat every 2 seconds, over HTTP; it ends when hive asks it to drain.
# Standard library only; hive sets HIVE_URL, HIVE_WORKER, HIVE_ATTEMPT and HIVE_TOKEN. It outlives a restart of hive.
import json, os, time, urllib.error, urllib.request

def tell(kind, **more):
    e = os.environ
    url = f"{e['HIVE_URL'].rstrip('/')}/v1/workers/{e['HIVE_WORKER']}/{kind}"
    body = json.dumps({"attempt": int(e["HIVE_ATTEMPT"]), **more}).encode()
    head = {"Authorization": "Bearer " + e["HIVE_TOKEN"], "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, head), timeout=5) as r:
            return json.load(r)
    except urllib.error.HTTPError:  # hive refuses, such as a process whose attempt it has given up
        raise
    except OSError:  # hive is away
        return {}

time.sleep(1)  # load the model here
tell("ready")
while not tell("heartbeat", in_flight=0).get("drain"):
    time.sleep(2)
