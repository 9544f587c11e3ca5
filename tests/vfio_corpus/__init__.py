# SPDX-License-Identifier: GPL-2.0-only
"""
Random VFIO calls and what Linux 7.3.4 answered to each; :mod:`corpus` has what other
corpora need, too.

``wire`` the calls' layouts, ``bench`` the three devices and how a session finds them,
``play`` one call in, one answer out; ``state``, ``learn`` and the ``gen_*`` files choose
the next call; ``record``, ``playback`` and ``findings`` run in the reference kernel,
``replay`` under ``uvfio run``, ``inprocess`` here; ``differences`` is what the device
models answer otherwise. ``__main__`` is the command line. What runs in the reference
kernel needs the standard library only.
"""
