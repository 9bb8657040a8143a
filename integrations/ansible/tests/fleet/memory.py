"""Runs a command and prints the most memory that it and its descendants held at once, in KiB, with the number of processes.

Shared pages are counted once (the proportional set size).

usage: memory.py COMMAND...
"""

from __future__ import annotations

import os
import subprocess
import sys
import time


def descendants(root):
    children = {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                with open('/proc/%s/stat' % name, encoding='utf-8', errors='replace') as stat:
                    parent = stat.read().rpartition(')')[2].split()[1]
            except OSError:
                continue
            children.setdefault(int(parent), []).append(int(name))
    found, left = [], [root]
    while left:
        process = left.pop()
        found.append(process)
        left += children.get(process, [])
    return found


def held(process):
    try:
        with open('/proc/%d/smaps_rollup' % process, encoding='utf-8') as file:
            return sum(int(line.split()[1]) for line in file if line.startswith('Pss:'))
    except (OSError, ValueError):
        return 0


def main():
    command = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    most, processes = 0, 0
    while command.poll() is None:
        found = descendants(command.pid)
        total = sum(held(process) for process in found)
        if total > most:
            most, processes = total, len(found)
        time.sleep(0.2)
    print('%d KiB in %d processes' % (most, processes))
    sys.exit(command.returncode)


main()
