from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.kkrun.kkrun.plugins.action.kkrun import ActionModule


def lost(*dummy, **more):
    raise AnsibleConnectionFailure('the host went down')


def test_host_that_went_down_is_unreachable_and_nothing_is_tried_there_again(monkeypatch):
    monkeypatch.setattr(ActionBase, 'run', lambda *dummy, **more: {})
    monkeypatch.setattr(ActionModule, 'perform', lost)
    monkeypatch.setattr(ActionModule, '_low_level_execute_command', lost)
    action = ActionModule.__new__(ActionModule)
    action._cleanup_remote_tmp = True
    action._task = SimpleNamespace(args={'plan': 'plans/web'}, async_val=0)
    action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir='/root/.ansible/tmp/ansible-tmp-1', remove=lambda *dummy, **more: 'rm'))
    with pytest.raises(AnsibleConnectionFailure, match='went down'):
        action.run(task_vars={})
    # What Ansible does at the end of every task: it has nothing to remove.
    action.cleanup()
