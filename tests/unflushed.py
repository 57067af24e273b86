"""Imported by what tests fork: it does not wait until the disk has what it writes.

No kill of a process loses what the system holds already. What counts operations of files, such as
``tests/file_operations.py``, counts these, too.
"""

from __future__ import annotations

import os

os.fsync = lambda _: None
