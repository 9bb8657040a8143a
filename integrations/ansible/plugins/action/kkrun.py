"""Brings the plan and the binary to the host, starts the run there and follows it: the controller's side of the module `kkrun`."""

from __future__ import annotations

import os
import tempfile

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.kkrun.kkrun.plugins.module_utils import bundle as bundles

display = Display()

MODULE = 'kkrun.kkrun.kkrun'
EVENTS = 'kkrun.kkrun.kkrun_events'

# How many changes of a host are kept on the controller.
MOST = 500

# Exit statuses of kkrun.
CONFLICTS, DIFFERENT, ANSWER = 4, 6, 78


def counted(number, name):
    return '%d %s%s' % (number, name, '' if number == 1 else 's')


class Summary:
    """What is kept of a run: bounded, whatever the run reports."""

    def __init__(self, show):
        self.show = show
        self.plan = None
        self.total = 0
        self.steps = []
        self.changes = []
        self.differences = []
        self.undone = []
        self.would = 0
        self.errors = []
        self.warnings = []
        self.ended = None

    def hear(self, event):
        handler = getattr(self, 'on_' + str(event.get('event')), None)
        if handler is not None:
            handler(event)

    def _step(self, event, state, **more):
        row = dict({'id': event['id'], 'title': event['title'], 'state': state}, **more)
        self.steps = [step for step in self.steps if step['id'] != event['id']] + [row]
        return '%s %s' % (event['id'], event['title'])

    def on_plan_started(self, event):
        self.plan, self.total = event['plan'], event['steps']
        going_on = event.get('going_on_at')
        self.show('%s: %s%s%s' % (
            event['plan'], counted(event['steps'], 'step'), ', dry run' if event.get('dry_run') else '', ', going on at %s' % going_on if going_on else ''))

    def on_step_skipped(self, event):
        self._step(event, event['why']['kind'])

    def on_step_started(self, event):
        self.show(self._step(event, 'running'))

    def on_step_completed(self, event):
        line = self._step(event, 'complete', seconds=event['seconds'], changes=event['changes'])
        self.show('%s: complete, %s, %.1f s' % (line, counted(event['changes'], 'change'), event['seconds']))

    def on_step_previewed(self, event):
        line = self._step(event, 'previewed', changes=event['changes'], unpredictable=event['unpredictable'])
        self.show('%s: %s' % (line, counted(event['changes'], 'change')))
        if event['unpredictable']:
            self.warnings.append('the dry run of step %s is not complete: %s' % (line, event['unpredictable']))

    def on_step_failed(self, event):
        self.show('%s: failed: %s' % (self._step(event, 'failed', seconds=event['seconds']), event['error']))

    def on_step_interrupted(self, event):
        self.show('%s: interrupted by %s' % (self._step(event, 'interrupted'), event['signal']))

    def on_change(self, event):
        self.would += event['outcome'] in ('would', 'would_ask')
        if len(self.changes) < MOST:
            self.changes.append({key: event.get(key) for key in ('step', 'outcome', 'target', 'summary')})
            if event.get('difference'):
                self.differences.append({'prepared': '%s\n%s\n' % (event['summary'], event['difference'].rstrip('\n'))})

    def on_undo(self, event):
        self.would += event['outcome'] == 'would'
        if len(self.undone) < MOST:
            self.undone.append({key: event.get(key) for key in ('step', 'outcome', 'target', 'summary', 'detail')})
        if event['outcome'] in ('undone', 'would', 'conflict', 'failed', 'not_undone'):
            self.show('%s: %s' % (event['outcome'].replace('_', ' '), event['summary']))

    def on_said(self, event):
        if event['level'] == 'warn':
            self.warnings.append(event['text'])

    def on_error(self, event):
        if len(self.errors) < 10:
            self.errors.append({key: event.get(key) for key in ('kind', 'message', 'hints', 'place', 'output', 'step')})

    def on_run_ended(self, event):
        self.ended = event


class ActionModule(ActionBase):
    """See the module's documentation."""

    TRANSFERS_FILES = True
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        self.task_vars = task_vars or {}
        self.arguments = dict(self._task.args)
        self.arguments.pop('bundle', None)
        state = self.arguments.get('state', 'applied')
        if state == 'status':
            result.update(self.module(MODULE, self.arguments))
            return result
        try:
            if self.arguments.get('secrets'):
                self.require_standard_input()
            result.update(self.perform(state))
        finally:
            self.remove_temporary()
        return result

    def remove_temporary(self):
        """What is on a host that went down stays there. Tried once more by Ansible, its removal would make the host one that failed."""
        try:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        except AnsibleConnectionFailure as error:
            display.vvv('cannot remove `%s`: %s' % (self._connection._shell.tmpdir, error))
        finally:
            self._connection._shell.tmpdir = None

    def module(self, name, arguments):
        outcome = self._execute_module(module_name=name, module_args=arguments, task_vars=self.task_vars)
        # It repeats the arguments.
        outcome.pop('invocation', None)
        return outcome

    def require_standard_input(self):
        """Arguments of a module, secrets among them, must reach it through standard input: a file of them could stay."""
        if C.DEFAULT_KEEP_REMOTE_FILES:
            raise AnsibleActionFail('cannot hand over secrets: modules are kept on the host\nnext: unset ANSIBLE_KEEP_REMOTE_FILES')
        try:
            self._connection.set_option('pipelining', True)
        except (AnsibleError, KeyError):
            pass
        if not self._is_pipelining_enabled('new', False):
            raise AnsibleActionFail(
                'cannot hand over secrets: this connection would write them to a file on the host\n'
                'next: use a connection and a become method with pipelining, such as ssh and sudo')

    def show(self, text):
        if self.arguments.get('show_events', True) and not self._play_context.no_log:
            display.display('  [%s] %s' % (self.task_vars.get('inventory_hostname', ''), text))

    def find(self, path):
        return path if os.path.isabs(path) else self._find_needle('files', path)

    def perform(self, state):
        bundle, sources = {}, {}
        if state == 'applied' and self.arguments.get('plan') and not self.boolean('remote_src'):
            sources['plan'] = self.find(self.arguments['plan'])
            bundle['plan_digest'] = bundles.digest_of_directory(sources['plan'])
            if bundle['plan_digest'] is None:
                raise AnsibleActionFail('`%s` is not a directory\nnext: name the directory of the plan' % sources['plan'])
        if self.arguments.get('binary'):
            sources['binary'] = self.find(self.arguments['binary'])
            bundle['binary_digest'] = bundles.digest_of_file(sources['binary'])
        while True:
            started = self.module(MODULE, dict(self.arguments, bundle=bundle))
            if started.get('failed') or started.get('unreachable'):
                return started
            if started.get('nothing'):
                return {'changed': False, 'msg': started['nothing'], 'changed_count': 0, 'undone': []}
            if started.get('needs'):
                self.bring(started['needs'], sources, bundle)
                continue
            if started.get('earlier'):
                self.show('an earlier run still goes on: it is followed first')
            summary = Summary(self.show)
            end = self.follow(started['run'], summary)
            if started.get('earlier') and not end.get('unreachable'):
                # Whatever became of it, the own run begins where it stopped.
                continue
            if end.get('failed') or end.get('unreachable'):
                return end
            return self.conclude(state, started, summary, end)

    def boolean(self, name):
        return str(self.arguments.get(name, False)).lower() in ('true', 'yes', 'on', '1', 'y', 't')

    def bring(self, kinds, sources, bundle):
        """Copies what the host does not have to a temporary directory there."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        temporary = self._connection._shell.tmpdir
        for kind in kinds:
            source, target = sources[kind], self._connection._shell.join_path(temporary, kind)
            if kind == 'plan':
                with tempfile.NamedTemporaryFile(dir=C.DEFAULT_LOCAL_TMP) as archive:
                    bundles.pack(source, archive)
                    archive.flush()
                    self._transfer_file(archive.name, target)
                bundle['plan_archive'] = target
            else:
                self._transfer_file(source, target)
                bundle['binary_file'] = target
            self._fixup_perms2((temporary, target))

    def follow(self, run, summary):
        """Reads what the run reports until it ends."""
        after, wait = 0, max(1, int(self.arguments.get('progress', 10)))
        while True:
            part = self.module(EVENTS, {'run': run, 'after': after, 'wait': wait})
            if part.get('failed') or part.get('unreachable'):
                return part
            for event in part['events']:
                summary.hear(event)
            if part['ended']:
                return part
            if not part['events'] and part['last_line'] is not None:
                running = [step for step in summary.steps if step['state'] == 'running']
                where = '%s: ' % running[-1]['id'] if running else ''
                self.show('%s%s' % (where, part['last_line'].strip()[:120]))
            after = part['next']

    def conclude(self, state, started, summary, end):
        ended = summary.ended or {}
        status = end['exit']
        is_check = self._task.check_mode
        count = summary.would if is_check else ended.get('changed', 0)
        result = {
            'exit': status,
            'changed': bool(count or (started.get('brought') and not is_check)),
            'changed_count': count,
            'pending': ended.get('pending', []),
            'brought': started.get('brought', []),
        }
        if state == 'applied':
            result.update(plan=summary.plan, steps=summary.steps, changes=summary.changes)
            if is_check and status == DIFFERENT:
                result['changed'] = True
        else:
            result['undone'] = summary.undone
        if self._task.diff and summary.differences:
            result['diff'] = summary.differences
        if summary.warnings:
            result['warnings'] = summary.warnings[:50]
        if status == 0 or (is_check and status == DIFFERENT):
            verb = ('would be undone' if is_check else 'undone') if state == 'rolled_back' else ('would be made' if is_check else 'made')
            result['msg'] = '%s %s' % (counted(count, 'change'), verb)
            return result
        result.update(failed=True, msg=self.failure(status, summary, end))
        if summary.errors:
            result['error'] = summary.errors[0]
        return result

    def failure(self, status, summary, end):
        if status is None:
            return 'kkrun was killed on the host\nnext: run the play again, and it goes on where it stopped'
        lines = []
        for error in summary.errors[:1]:
            lines.append(error['message'])
            lines += ['  ' + line for line in error.get('output') or []]
            lines += ['next: ' + hint for hint in error['hints']]
        if not lines and status == CONFLICTS:
            rows = [row for row in summary.undone if row['outcome'] in ('conflict', 'failed')]
            lines.append('the rollback is not complete: %s' % '; '.join(
                '%s (%s)' % (row['summary'], row['detail'] or row['outcome']) for row in rows[:10]))
            lines.append('next: undo them as well with `on_conflict: overwrite`, or leave them for good with `keep`')
        if not lines:
            lines = end['messages'] or ['kkrun ended with exit status %d' % status]
        if status == ANSWER:
            lines.append('next: in a play, give secrets with `secrets`, and agree to questions with `assume_yes` or `purge`')
        return '\n'.join(lines)
