"""Reads two lines of JSON, Jupyter's sessions and terminals, and tells for how many seconds nothing
was done in them: 0 while a kernel works, the time since the machine started if there are none."""

import datetime
import json
import sys


def idle_seconds(sessions, terminals, now, up):
    kernels = [session["kernel"] for session in sessions]
    if any(kernel["execution_state"] not in ("idle", "starting", "dead") for kernel in kernels):
        return 0
    idle = [up]
    for entry in kernels + terminals:
        # A time without a fraction has no dot.
        text = entry["last_activity"].replace("Z", "+00:00")
        idle.append((now - datetime.datetime.fromisoformat(text)).total_seconds())
    return max(0, int(min(idle)))


def main():
    sessions, terminals = (json.loads(line) for line in sys.stdin if line.strip())
    with open("/proc/uptime", encoding="ascii") as uptime:
        up = float(uptime.read().split()[0])
    print(idle_seconds(sessions, terminals, datetime.datetime.now(datetime.timezone.utc), up))


if __name__ == "__main__":
    main()
