"""Runs of kkrun on a host that outlive the connection which started them.

Each has a directory of its own that only its user can read: what kkrun writes goes to files there, and is read from there in
parts. Nothing in it is an argument or a file with a secret: secrets go through standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid

# Keeps the exit status beside what was written, and removes what was only for this run.
WRAPPER = '''
umask 022
remove=$KKRUN_ANSIBLE_REMOVE
unset KKRUN_ANSIBLE_REMOVE
"$@" >events 2>messages
status=$?
[ -z "$remove" ] || rm -rf -- "$remove"
echo "$status" >exit.new
mv exit.new exit
'''

# How long a run that ended can still be read, in seconds: by a play that lost an answer, or a second one that follows it.
KEPT = 600

# How much of the events is read at once, in bytes.
PART = 1 << 18

# How many of the last messages are handed on, in lines.
LAST_MESSAGES = 20

# What is handed on at once, so that the controller shows it as it comes.
TURNS = frozenset(('plan_started', 'step_started', 'step_completed', 'step_failed', 'step_interrupted', 'error', 'run_ended'))


def directory_of_runs():
    """Where the runs of this user are: gone with a restart of the machine, for root."""
    if os.geteuid() == 0:
        return '/run/kkrun-ansible'
    state = os.environ.get('XDG_RUNTIME_DIR') or os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.join(state, 'kkrun-ansible')


def _begun(pid):
    """When a process began, in ticks, or None if it has ended: with its number this names it for ever."""
    try:
        with open('/proc/%d/stat' % pid, encoding='utf-8', errors='replace') as stat:
            fields = stat.read().rpartition(')')[2].split()
    except OSError:
        return None
    return None if fields[0] in 'ZX' else fields[19]


class Run:
    """One run."""

    def __init__(self, name):
        self.name = name
        self.directory = os.path.join(directory_of_runs(), os.path.basename(name))

    def _path(self, name):
        return os.path.join(self.directory, name)

    def _read(self, name):
        try:
            with open(self._path(name), encoding='utf-8', errors='replace') as file:
                return file.read()
        except OSError:
            return None

    @classmethod
    def start(cls, arguments, given=b'', remove=''):
        """Starts kkrun with these arguments and this standard input, in a session of its own."""
        run = cls('%d-%s' % (time.time(), uuid.uuid4().hex[:12]))
        os.makedirs(run.directory, mode=0o700)
        os.chmod(directory_of_runs(), 0o700)
        environment = dict(os.environ, KKRUN_ANSIBLE_REMOVE=remove)
        # What is here belongs to this connection.
        for name in ('SUDO_COMMAND', 'SSH_CLIENT', 'SSH_CONNECTION', 'SSH_TTY'):
            environment.pop(name, None)
        with open(os.devnull, 'wb') as nothing:
            process = subprocess.Popen(  # pylint: disable=consider-using-with
                ['/bin/sh', '-c', WRAPPER, 'kkrun'] + arguments,
                stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, cwd=run.directory, env=environment,
                start_new_session=True, close_fds=True)
        with open(run._path('process'), 'w', encoding='utf-8') as file:
            file.write('%d %s' % (process.pid, _begun(process.pid)))
        try:
            process.stdin.write(given)
            process.stdin.close()
        except BrokenPipeError:
            # It ended before it read all: its messages say why.
            pass
        return run

    @classmethod
    def all(cls):
        """Those that are there, the oldest first."""
        try:
            names = sorted(os.listdir(directory_of_runs()))
        except OSError:
            return []
        return [cls(name) for name in names]

    def exists(self):
        """Whether anything is known of it."""
        return os.path.isdir(self.directory)

    def is_alive(self):
        """Whether it goes on."""
        known = (self._read('process') or '').split()
        return len(known) == 2 and self.exit() is None and _begun(int(known[0])) == known[1]

    def exit(self):
        """The exit status of kkrun, or None: it goes on, or was killed."""
        status = self._read('exit')
        return int(status) if status else None

    def remove(self):
        """Forgets it."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def is_old(self):
        """Whether it ended long ago."""
        try:
            return not self.is_alive() and os.stat(self.directory).st_mtime < time.time() - KEPT
        except OSError:
            return False

    def messages(self):
        """The last lines of what kkrun says to people."""
        return (self._read('messages') or '').splitlines()[-LAST_MESSAGES:]

    def _part(self, after):
        """The events in whole lines behind this position, the last line that a command wrote, and the next position."""
        try:
            with open(self._path('events'), 'rb') as file:
                file.seek(after)
                text = file.read(PART)
                while text and b'\n' not in text:
                    more = file.read(PART)
                    if not more:
                        break
                    text += more
        except OSError:
            return [], None, after
        whole = text[:text.rfind(b'\n') + 1]
        events, last_line = [], None
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get('event') == 'command_line':
                last_line = event.get('text')
            else:
                events.append(event)
        return events, last_line, after + len(whole)

    def follow(self, after, wait):
        """The next part. Waits for a turn of the run, its end, or so many seconds."""
        deadline = time.monotonic() + wait
        events, last_line = [], None
        while True:
            ended = not self.is_alive()
            more, line, position = self._part(after)
            events += more
            last_line = line if line is not None else last_line
            drained, after = position == after, position
            is_turn = any(event.get('event') in TURNS for event in more)
            if (ended and drained) or is_turn or time.monotonic() >= deadline:
                return {'events': events, 'last_line': last_line, 'next': after, 'ended': ended and drained}
            if drained:
                time.sleep(0.05)
