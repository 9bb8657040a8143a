from __future__ import annotations

import io
import os

import pytest
from ansible_collections.kkrun.kkrun.plugins.module_utils import bundle, runs


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, 'directory_of_runs', lambda: str(tmp_path / 'runs'))


def shell(script, given=b'', remove=''):
    return runs.Run.start(['/bin/sh', '-c', script], given, remove)


def all_of(run):
    events, after = [], 0
    while True:
        part = run.follow(after, 5)
        events += part['events']
        if part['ended']:
            return events, run.exit()
        after = part['next']


def test_events_and_exit_status_of_a_run_are_read():
    run = shell('echo \'{"event":"said","text":"one"}\'; echo for people >&2; exit 6')
    assert all_of(run) == ([{'event': 'said', 'text': 'one'}], 6)
    assert run.messages() == ['for people']
    assert not run.is_alive()
    run.remove()
    assert not run.exists()


def test_a_turn_is_handed_on_before_the_end_and_lines_of_commands_are_not():
    run = shell('echo \'{"event":"command_line","text":"a"}\'; echo \'{"event":"step_started"}\'; read end; exit 0 <&-', b'')
    waiting = shell('echo \'{"event":"command_line","text":"b"}\'; echo \'{"event":"step_started"}\'; sleep 30')
    part = waiting.follow(0, 20)
    assert ([event['event'] for event in part['events']], part['last_line'], part['ended']) == (['step_started'], 'b', False)
    assert waiting.is_alive()
    with open(os.path.join(waiting.directory, 'process'), encoding='utf-8') as file:
        os.killpg(int(file.read().split()[0]), 9)
    assert waiting.follow(part['next'], 20)['ended'] and waiting.exit() is None
    assert all_of(run)[1] == 0


def test_half_a_line_is_not_read():
    run = shell('printf \'{"event":\'; sleep 0.3; echo \'"said"}\'')
    assert all_of(run) == ([{'event': 'said'}], 0)


def test_standard_input_is_handed_over_and_ends():
    run = shell('printf \'{"event":"%s"}\\n\' "$(cat)"', b'given')
    assert all_of(run)[0] == [{'event': 'given'}]
    for name in os.listdir(run.directory):
        with open(os.path.join(run.directory, name), 'rb') as file:
            assert name == 'events' or b'given' not in file.read()
    assert os.stat(run.directory).st_mode & 0o777 == 0o700


def test_what_was_only_for_the_run_is_removed_with_its_end(tmp_path):
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    assert all_of(shell('[ -z "$KKRUN_ANSIBLE_REMOVE" ]', remove=str(scratch))) == ([], 0)
    assert not scratch.exists()


def test_an_archive_brings_the_same_digest(tmp_path):
    plan = tmp_path / 'plan'
    (plan / 'files').mkdir(parents=True)
    (plan / 'master.rhai').write_text('plan')
    (plan / 'files' / 'run.sh').write_text('script')
    (plan / 'files' / 'run.sh').chmod(0o750)
    archive = tmp_path / 'archive'
    with open(archive, 'wb') as file:
        bundle.pack(str(plan), file)
    bundle.unpack(str(archive), str(tmp_path / 'host'))
    digest = bundle.digest_of_directory(str(plan))
    assert bundle.digest_of_directory(str(tmp_path / 'host')) == digest
    (plan / 'files' / 'run.sh').chmod(0o640)
    assert bundle.digest_of_directory(str(plan)) != digest


def test_an_archive_writes_nothing_outside_of_its_directory(tmp_path):
    import tarfile
    archive = tmp_path / 'archive'
    with tarfile.open(archive, 'w:gz') as packed:
        entry = tarfile.TarInfo('../outside')
        entry.size = 1
        packed.addfile(entry, io.BytesIO(b'x'))
    with pytest.raises(ValueError):
        bundle.unpack(str(archive), str(tmp_path / 'host'))
    assert not (tmp_path / 'outside').exists()
