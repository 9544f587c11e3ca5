# SPDX-License-Identifier: GPL-2.0-only
"""
Random iommufd calls and what Linux 7.3.4 answered to each: made, kept and replayed.

``wire`` how a call is laid out, ``system`` what makes it (a real process), ``model``
(a process of the model), ``play`` one call in, one answer out; ``state`` and the
``gen_*`` files choose the next call; ``record`` runs in the reference kernel,
``corpus`` keeps the answers, ``replay`` and ``shrink`` use them. ``__main__`` is the
command line. What runs in the reference kernel needs the standard library only.
"""
