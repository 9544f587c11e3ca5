/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The scenario kvm.release_vs_bind, by hand: the kvm-vfio device is closed while a device
 * whose driver wants the VM's lock is bound through its cdev. With -DBUG: known bug D3.
 */
#include "mutex.h"

mutex kvm_lock, set_lock, group_lock;
#ifdef BUG
#define kvm_ref_lock set_lock
#else
mutex kvm_ref_lock;
#endif
byte kvm_users = 2, file_refs = 2;	/* the VM's fd and kvm-vfio; the fd and kvm-vfio */
bool file_kvm = 1, device_kvm, kvm_freed, opened, group_blocked;

active proctype release()
{
	lock(kvm_lock);
	lock(kvm_ref_lock);
	file_kvm = 0;
	unlock(kvm_ref_lock);
	d_step { assert(file_refs > 1); file_refs-- }
	unlock(kvm_lock);
	d_step { kvm_users--; kvm_freed = (kvm_users == 0) }
}

active proctype bind()
{
	lock(group_lock);
	group_blocked = 1;
	unlock(group_lock);
	lock(set_lock);
#ifndef BUG
	lock(kvm_ref_lock);
#endif
	if
	:: file_kvm ->
		d_step { assert(kvm_users > 0); kvm_users++ };
		device_kvm = 1
	:: else
	fi;
#ifndef BUG
	unlock(kvm_ref_lock);
#endif
	if
	:: device_kvm ->
		assert(!kvm_freed);
		lock(kvm_lock);
		opened = 1;
		unlock(kvm_lock)
	:: else				/* EINVAL, and back */
		unlock(set_lock);
		lock(group_lock);
		group_blocked = 0;
		unlock(group_lock);
		goto out
	fi;
	unlock(set_lock);
out:	assert(opened == device_kvm)
}
