/* SPDX-License-Identifier: GPL-2.0-only */
/* A mutex: the process that holds it, or 0. */
#define mutex byte
#define lock(m) atomic { m == 0 -> m = _pid + 1 }
#define unlock(m) d_step { assert(m == _pid + 1); m = 0 }
