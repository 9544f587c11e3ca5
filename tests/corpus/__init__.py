# SPDX-License-Identifier: GPL-2.0-only
"""
What the corpora of recorded answers share: random calls, and what Linux 7.3.4 answered.

``layout`` how a call's argument is laid out, ``system`` what makes calls (a real
process), ``model`` (a process of the model), ``player`` one call in, one answer out;
``recording`` runs in the reference kernel, ``sessions`` keeps what it prints,
``replaying`` and ``shrink`` use it, ``commands`` is the command line. What runs in the
reference kernel needs the standard library only.
"""
