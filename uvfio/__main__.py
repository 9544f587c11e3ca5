# SPDX-License-Identifier: GPL-2.0-only
"""``python -m uvfio``: the command line."""

from uvfio.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
