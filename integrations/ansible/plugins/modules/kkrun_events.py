#!/usr/bin/python
# -*- coding: utf-8 -*-

# Copyright (c) 2026 the kkrun authors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT

from __future__ import annotations

DOCUMENTATION = r'''
---
module: kkrun_events
short_description: Read the events of a run of kkrun that goes on
description:
  - Returns what a run that the module M(kkrun.kkrun.kkrun) started has reported since. That module's action plugin calls it; playbooks
    rarely need to.
version_added: 0.1.0
options:
  run:
    description: The run, as M(kkrun.kkrun.kkrun) named it.
    type: str
    required: true
  after:
    description: The position behind what was read before.
    type: int
    default: 0
  wait:
    description: How many seconds to wait at most for the run's next turn.
    type: int
    default: 0
extends_documentation_fragment:
  - kkrun.kkrun.attributes
attributes:
  check_mode:
    support: full
    details: It only reads.
  diff_mode:
    support: none
    details: There is nothing to show.
author:
  - the kkrun authors (@kkrun)
'''

EXAMPLES = r'''
- name: Read what the run reported
  kkrun.kkrun.kkrun_events:
    run: "{{ started.run }}"
    wait: 10
  become: true
'''

RETURN = r'''
events:
  description: The events, as docs/events.md of kkrun describes them, without the lines that commands wrote.
  returned: always
  type: list
  elements: dict
last_line:
  description: The last line that a command wrote since, or nothing.
  returned: always
  type: str
next:
  description: The position behind these events.
  returned: always
  type: int
ended:
  description: Whether the run has ended and all was read.
  returned: always
  type: bool
exit:
  description: The exit status of kkrun, or nothing if it was killed.
  returned: when it ended
  type: int
messages:
  description: The last lines that kkrun wrote for people.
  returned: when it ended
  type: list
  elements: str
'''

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kkrun.kkrun.plugins.module_utils.runs import Run


def main():
    module = AnsibleModule(
        argument_spec={
            'run': {'type': 'str', 'required': True},
            'after': {'type': 'int', 'default': 0},
            'wait': {'type': 'int', 'default': 0},
        },
        supports_check_mode=True,
    )
    run = Run(module.params['run'])
    if not run.exists():
        module.fail_json(msg='the run `%s` is not known on the host: it went down since\nnext: run the play again, and it goes on'
                             % run.name)
    part = run.follow(module.params['after'], module.params['wait'])
    if part['ended']:
        part.update(exit=run.exit(), messages=run.messages())
    module.exit_json(changed=False, **part)


if __name__ == '__main__':
    main()
