"""Sends events with segment-analytics-python as it ships: nothing is set but where to send and with which key.

    python send.py RUN COUNT RATE     with PENSTOCK_INGEST_URL and PENSTOCK_WRITE_KEY set

RATE is in events per second. Prints one line of JSON: how many events each call made, how many of the calls said that
they had enqueued theirs, and what the error callback was given.
"""

import json
import os
import sys
import time
from collections import Counter

from segment.analytics.client import Client


def main():
    run, count, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    errors = []
    client = Client(
        write_key=os.environ["PENSTOCK_WRITE_KEY"],
        host=os.environ["PENSTOCK_INGEST_URL"],
        on_error=lambda error, batch: errors.append(f"{len(batch)} events: {error}"),
    )
    calls = {
        "track": lambda who, number: client.track(
            who, "Order Completed", {"number": number, "run": run, "total": number / 100}, anonymous_id=run
        ),
        "page": lambda who, number: client.page(who, "Shop", "Start", {"number": number, "run": run}, anonymous_id=run),
        "screen": lambda who, number: client.screen(
            who, "Shop", "Start", {"number": number, "run": run}, anonymous_id=run
        ),
        "identify": lambda who, number: client.identify(who, {"number": number, "run": run}, anonymous_id=run),
        "group": lambda who, number: client.group(who, "g", {"number": number, "run": run}, anonymous_id=run),
    }
    others = [call for call in calls if call != "track"]
    made = Counter()
    enqueued = 0
    started = time.monotonic()
    for number in range(count):
        due = started + number / rate - time.monotonic()
        if due > 0.001:
            time.sleep(due)
        # One in five is no track call.
        call = others[number // 5 % len(others)] if number % 5 == 4 else "track"
        made[call] += 1
        success, _ = calls[call](f"user-{number % 97}", number)
        enqueued += success
    seconds = time.monotonic() - started
    client.shutdown()
    print(json.dumps({"made": made, "enqueued": enqueued, "errors": errors, "seconds": seconds}))


main()
