"""One client process of a race: ``URL NAME THREADS FILE``, its key in TEST_KEY; begins once the file is there.

Each thread buys batches of several images until one is refused for good, then single images until one is. Says as one
JSON object what it got.
"""

import itertools
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

from tests.reliability.demanding_client import DemandingClient, Wish

BATCHES = (8, 16, 24)  # together never a budget of 8 n + 7: single images have to fill it


def main() -> None:
    url, name, threads, start_file = sys.argv[1:]
    client = DemandingClient(url, os.environ["TEST_KEY"])
    while not Path(start_file).exists():
        time.sleep(0.002)
    workers = [threading.Thread(target=_buy, args=(client, f"{name}-{number}")) for number in range(int(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report = {
        "images": client.images,
        "answers": {key: len(received.wish.numbers) for key, received in client.received.items()},
        "refused": sorted({problem["code"] for problem in client.refused.values()}),
        "lost": dict(client.lost),
        "faults": client.faults,
    }
    sys.stdout.write(json.dumps(report) + "\n")


def _buy(client: DemandingClient, name: str) -> None:
    rng = random.Random(name)
    with client.connect() as connection:
        for sizes in (BATCHES, (1,)):
            for number in itertools.count():
                numbers = tuple(rng.randrange(65536) for _ in range(rng.choice(sizes)))
                wish = Wish(f"{name}-{len(sizes)}-{number}", numbers)
                client.insist(connection, wish)
                if wish.idempotency_key not in client.received:
                    break
