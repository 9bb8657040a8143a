# -*- coding: utf-8 -*-

# Copyright (c) 2026 the kkrun authors
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
# SPDX-License-Identifier: MIT
"""What the attributes of the modules mean. Each module says what it supports of them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r'''
attributes:
  check_mode:
    description: Changes nothing on the host in check mode, and says what would be changed.
  diff_mode:
    description: Shows changes line by line.
'''
