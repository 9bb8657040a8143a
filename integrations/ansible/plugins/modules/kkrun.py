#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026 the kkrun authors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r'''
---
module: kkrun
short_description: Run plans of kkrun, roll them back, show their state
description:
  - Brings the directory of a plan, and the binary if it is given, to the host, runs the plan there and shows its steps as they come.
  - kkrun's journal on the host knows what was done. A play that was interrupted, at the controller, on the way or by a host that went
    down, is run again, and each host goes on where it stopped. A run that still goes on there is followed to its end first.
  - In check mode kkrun makes a dry run. With C(--diff) each change is shown line by line.
  - Plans that need root are run with C(become).
version_added: 0.1.0
options:
  state:
    description:
      - V(applied) runs the plan.
      - V(rolled_back) undoes its recorded changes, newest first.
      - V(status) returns the state of the plans of the host, and changes nothing.
    type: str
    choices: [applied, rolled_back, status]
    default: applied
  plan:
    description:
      - The directory of the plan on the controller, relative to the playbook or the C(files) of the role.
      - With O(remote_src), a directory on the host.
    type: path
  script:
    description: The script in the directory to run.
    type: str
    default: master.rhai
  remote_src:
    description: The directory of the plan is on the host already.
    type: bool
    default: false
  dest:
    description:
      - Where the plan is put on the host. Only root may be able to write there and above.
      - The default is a directory with the name of the plan's in C(/etc/kkrun/plans).
    type: path
  binary:
    description:
      - A binary of kkrun on the controller, which is put to O(executable) if it is not there already.
      - Without it kkrun is expected on the host, from its Debian package for example.
    type: path
  executable:
    description: The binary on the host. The default is V(/usr/local/bin/kkrun) with O(binary), else C(kkrun) in the path.
    type: path
  name:
    description:
      - The name of the plan, which is its setting C(plan) or the name of its script, for V(rolled_back) and V(status).
      - Without it a rollback is about the only plan of the host, and the state about all.
    type: str
  settings:
    description:
      - Overrides of settings of the plan on this host. Lists and dictionaries are handed over as JSON.
      - If it is given, even empty, overrides that an earlier run recorded and that are not in it are forgotten.
    type: dict
  secrets:
    description:
      - Secrets that the plan asks for, by their names. kkrun gets them through its standard input. They are no arguments, no
        variables and in no file of the collection.
      - It needs a connection that hands modules over through standard input, as that of SSH does.
    type: dict
  steps:
    description: For V(rolled_back), only these steps or targets.
    type: list
    elements: str
    default: []
  only:
    description: Run only these steps.
    type: list
    elements: str
    default: []
  redo:
    description: Run these steps again, complete or on hold.
    type: list
    elements: str
    default: []
  repair:
    description: Examine complete steps, too, and run those whose effect no longer holds.
    type: bool
    default: false
  on_conflict:
    description: What to do about targets that were modified outside kkrun. With V(ask) they stay, and the task fails.
    type: str
    choices: [ask, keep, overwrite]
    default: ask
  assume_yes:
    description: Answer yes to every question about something that loses no data.
    type: bool
    default: false
  purge:
    description: The classes of data that a rollback may delete.
    type: list
    elements: str
    choices: [users, homes, databases, packages, data, all]
    default: []
  show_events:
    description: Show each step as it begins and ends.
    type: bool
    default: true
  progress:
    description: How many seconds pass at most until a running step is shown again.
    type: int
    default: 10
  bundle:
    description: Set by the action plugin, which brings the files. Not for playbooks.
    type: dict
notes:
  - Set C(ServerAliveInterval) for SSH, so that a host that went down is noticed.
extends_documentation_fragment:
  - kkrun.kkrun.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - the kkrun authors (@kkrun)
'''

EXAMPLES = r'''
- name: Run the plan in plans/web, with settings and secrets of the host
  kkrun.kkrun.kkrun:
    plan: plans/web
    binary: files/kkrun
    settings:
      port: "{{ web_port }}"
    secrets:
      db_password: "{{ vault_db_password }}"
  become: true

- name: Repair what no longer holds
  kkrun.kkrun.kkrun:
    plan: plans/web
    repair: true
  become: true

- name: Undo it
  kkrun.kkrun.kkrun:
    state: rolled_back
    name: web
    purge: [users, packages]
  become: true

- name: Gather the state of the plans of the host
  kkrun.kkrun.kkrun:
    state: status
  become: true
'''

RETURN = r'''
msg:
  description: How it ended, in a sentence. Of a failure what could not be done, and the way on.
  returned: always
  type: str
exit:
  description: The exit status of kkrun, or nothing if it was killed.
  returned: when a plan was run or rolled back
  type: int
changes:
  description: What was changed, or would be in check mode. The first 500, of which RV(changed_count) says the number.
  returned: when a plan was run
  type: list
  elements: dict
  sample: [{"step": "01", "outcome": "made", "target": "file:/etc/motd", "summary": "write /etc/motd"}]
changed_count:
  description: How many changes were made, undone, or would be.
  returned: when a plan was run or rolled back
  type: int
steps:
  description: The steps with what became of each.
  returned: when a plan was run
  type: list
  elements: dict
undone:
  description: What a rollback did about each change. The first 500.
  returned: when a plan was rolled back
  type: list
  elements: dict
error:
  description: The first error, with its kind, message, hints, place and the last output of the command behind it.
  returned: on failure, if kkrun reported one
  type: dict
pending:
  description: Handlers that were triggered and have not run yet, and needed restarts of the machine.
  returned: when a plan was run or rolled back
  type: list
  elements: str
brought:
  description: What the collection put on the host.
  returned: when a plan was run
  type: list
  elements: str
plans:
  description: The state of each plan, as C(kkrun status --json) gives it.
  returned: with O(state=status)
  type: list
  elements: dict
ansible_facts:
  description: The state as facts.
  returned: with O(state=status)
  type: dict
  contains:
    kkrun:
      description: The version of kkrun, or nothing if it is not installed, and the state of each plan by its name.
      type: dict
'''

import json
import os
import pwd
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kkrun.kkrun.plugins.module_utils import bundle as bundles
from ansible_collections.kkrun.kkrun.plugins.module_utils.runs import Run

PLANS = '/etc/kkrun/plans'
BINARY = '/usr/local/bin/kkrun'
CHECKS = 'kkrun-check-'


class Host:
    """What the module does on the host."""

    def __init__(self, module):
        self.module = module
        self.given = module.params
        self.bundle = module.params['bundle'] or {}
        self.brought = []
        # What a dry run needs and the host does not have yet.
        self.scratch = ''

    def fail(self, message, hint=None):
        self.remove_scratch()
        text = message if hint is None else '%s\nnext: %s' % (message, hint)
        self.module.fail_json(msg=text)

    def remove_scratch(self):
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def executable(self, required=True):
        chosen = self.given['executable'] or (BINARY if self.bundle.get('binary_digest') else None)
        if chosen:
            return chosen
        found = self.module.get_bin_path('kkrun', opt_dirs=['/usr/local/bin'])
        if found is None and required:
            self.fail('kkrun is not installed on the host',
                      'install its Debian package, or bring a binary with the option `binary`')
        return found

    def destination(self):
        if self.given['remote_src']:
            return self.given['plan']
        return self.given['dest'] or os.path.join(PLANS, os.path.basename(self.given['plan'].rstrip('/')))

    def missing(self):
        """What the host does not have in this form."""
        missing = []
        plan, binary = self.bundle.get('plan_digest'), self.bundle.get('binary_digest')
        if plan and bundles.digest_of_directory(self.destination()) != plan:
            missing.append('plan')
        if binary and bundles.digest_of_file(self.executable()) != binary:
            missing.append('binary')
        return missing

    def scratch_directory(self):
        """A directory of this run alone that only root can write to; /run may not be for programs."""
        if not self.scratch:
            above = '/var/lib' if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_dir
            self.scratch = tempfile.mkdtemp(prefix=CHECKS, dir=above)
        return self.scratch

    def bring(self, missing):
        """Puts what is missing in its place, or in a scratch directory for a dry run. Gives the plan's directory and the binary."""
        plan, binary = (self.destination() if self.given['plan'] else None), self.executable()
        if 'binary' in missing:
            if self.module.check_mode:
                binary = os.path.join(self.scratch_directory(), 'kkrun')
            else:
                os.makedirs(os.path.dirname(binary), exist_ok=True)
                self.brought.append(binary)
            new = binary + '.new'
            shutil.copyfile(self.bundle['binary_file'], new)
            os.chmod(new, 0o755)
            os.rename(new, binary)
        if 'plan' in missing:
            if self.module.check_mode:
                plan = os.path.join(self.scratch_directory(), os.path.basename(plan))
                bundles.unpack(self.bundle['plan_archive'], plan)
            else:
                self.replace_plan(plan)
                self.brought.append(plan)
        return plan, binary

    def replace_plan(self, plan):
        os.makedirs(os.path.dirname(plan), mode=0o755, exist_ok=True)
        new, old = plan + '.new', plan + '.old'
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        bundles.unpack(self.bundle['plan_archive'], new)
        if os.path.lexists(plan):
            os.rename(plan, old)
        os.rename(new, plan)
        shutil.rmtree(old, ignore_errors=True)

    def status(self, binary, name=None):
        """The rows of `kkrun status --json`, or None and why there are none."""
        command = [binary, 'status', '--json'] + ([name] if name else [])
        code, out, err = self.module.run_command(command)
        rows = [json.loads(line) for line in out.splitlines() if line.strip()]
        rows = [row for row in rows if 'plan' in row]
        # A plan that cannot be examined is known by its record.
        if code != 0 and not rows:
            return None, err.strip()
        return rows, None

    def settings(self, binary, script):
        """The arguments that make the recorded overrides those of the inventory."""
        if self.given['settings'] is None:
            return []
        arguments = []
        for key, value in sorted(self.given['settings'].items()):
            if value is None:
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            arguments.append('--set=%s=%s' % (key, text))
        wanted = {key for key, value in self.given['settings'].items() if value is not None}
        rows, dummy = self.status(binary)
        for row in rows or []:
            if row.get('script') == script:
                recorded = {line.partition(' = ')[0] for line in row.get('overrides', [])}
                arguments += ['--unset=%s' % key for key in sorted(recorded - wanted)]
        return arguments

    def secrets(self):
        """The lines that kkrun reads from its standard input."""
        lines = []
        for name, value in sorted((self.given['secrets'] or {}).items()):
            text = str(value)
            if '\n' in text or '\r' in text:
                self.fail('cannot hand over the secret `%s`: it has more than one line' % name,
                          'encode it, as base64 for example')
            lines.append('%s=%s\n' % (name, text))
        return ''.join(lines).encode('utf-8')

    def common(self):
        arguments = ['--json', '--non-interactive', '--on-conflict=%s' % self.given['on_conflict']]
        if self.module.check_mode:
            arguments.append('--dry-run')
        if self.given['assume_yes']:
            arguments.append('--yes')
        if self.given['purge']:
            arguments.append('--purge=%s' % ','.join(self.given['purge']))
        return arguments

    def apply(self):
        missing = self.missing()
        absent = [kind for kind in missing if not self.bundle.get('plan_archive' if kind == 'plan' else 'binary_file')]
        if absent:
            return {'needs': absent}
        plan, binary = self.bring(missing)
        script = os.path.join(plan, self.given['script'])
        if not os.path.isfile(script):
            self.fail('the plan has no script `%s`' % self.given['script'], 'name it with the option `script`')
        arguments = self.common()
        if self.module._diff:
            arguments.append('--show-differences')
        if self.given['repair']:
            arguments.append('--repair')
        for option in ('only', 'redo'):
            if self.given[option]:
                arguments.append('--%s=%s' % (option, ','.join(self.given[option])))
        arguments += self.settings(binary, os.path.join(self.destination(), self.given['script']))
        given = self.secrets()
        if given:
            arguments.append('--secrets=-')
        return self.start([binary] + arguments + [script], given)

    def roll_back(self):
        binary = self.executable()
        name = self.given['name']
        rows, why = self.status(binary)
        if rows is None:
            self.fail(why)
        if name and name not in [row['plan'] for row in rows]:
            return {'nothing': 'nothing is recorded of the plan `%s`' % name}
        arguments = [binary, 'rollback'] + self.common()
        if name:
            arguments.append('--plan=%s' % name)
        return self.start(arguments + ['--'] * bool(self.given['steps']) + self.given['steps'], b'')

    def start(self, arguments, given):
        run = Run.start(arguments, given, self.scratch)
        return {'run': run.name, 'brought': self.brought}

    def report(self):
        binary = self.executable(required=False)
        if binary is None or not os.path.exists(binary):
            return {'plans': [], 'ansible_facts': {'kkrun': {'version': None, 'plans': {}}}, 'msg': 'kkrun is not installed'}
        version = self.module.run_command([binary, '--version'], check_rc=True)[1].split()[-1]
        rows, why = self.status(binary, self.given['name'])
        if rows is None:
            self.fail(why)
        facts = {'version': version, 'plans': {row['plan']: row for row in rows}}
        shown = ', '.join('%s: %s' % (row['plan'], row['state']) for row in rows) or 'no plan has recorded anything'
        return {'plans': rows, 'ansible_facts': {'kkrun': facts}, 'msg': shown}


def main():
    module = AnsibleModule(
        argument_spec={
            'state': {'type': 'str', 'choices': ['applied', 'rolled_back', 'status'], 'default': 'applied'},
            'plan': {'type': 'path'},
            'script': {'type': 'str', 'default': 'master.rhai'},
            'remote_src': {'type': 'bool', 'default': False},
            'dest': {'type': 'path'},
            'binary': {'type': 'path'},
            'executable': {'type': 'path'},
            'name': {'type': 'str'},
            'settings': {'type': 'dict'},
            'secrets': {'type': 'dict', 'no_log': True},
            'steps': {'type': 'list', 'elements': 'str', 'default': []},
            'only': {'type': 'list', 'elements': 'str', 'default': []},
            'redo': {'type': 'list', 'elements': 'str', 'default': []},
            'repair': {'type': 'bool', 'default': False},
            'on_conflict': {'type': 'str', 'choices': ['ask', 'keep', 'overwrite'], 'default': 'ask'},
            'assume_yes': {'type': 'bool', 'default': False},
            'purge': {'type': 'list', 'elements': 'str', 'default': [],
                      'choices': ['users', 'homes', 'databases', 'packages', 'data', 'all']},
            'show_events': {'type': 'bool', 'default': True},
            'progress': {'type': 'int', 'default': 10},
            'bundle': {'type': 'dict'},
        },
        required_if=[('state', 'applied', ['plan'])],
        supports_check_mode=True,
    )
    host = Host(module)
    if module.params['state'] == 'status':
        module.exit_json(changed=False, **host.report())
    # One run at a time: what an earlier play began is followed to its end first.
    for run in Run.all():
        if run.is_alive():
            module.exit_json(changed=False, run=run.name, earlier=True)
        if run.is_old():
            run.remove()
    outcome = host.apply() if module.params['state'] == 'applied' else host.roll_back()
    module.exit_json(changed=False, **outcome)


if __name__ == '__main__':
    main()
