"""What all programs are made of: connections, settings, log, metrics. It imports nothing of the rest."""

import sys

# Here because every program imports this before any module that an older Python cannot compile.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}")
