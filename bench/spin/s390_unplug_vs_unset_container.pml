/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The scenario s390.unplug_vs_unset_container, by hand: a function is deconfigured while
 * UNSET_CONTAINER puts it back on its default domain. With -DBUG: known bug S0.
 */
#include "mutex.h"

#define BLOCKED 0
#define DEFAULT 1
#define CONTAINER 2

mutex state_lock, rescan_lock, vfio_lock, group_lock, container_lock, iommu_lock, list_lock, dom_lock;
byte domain = CONTAINER, table = CONTAINER;	/* what the kernel believes, what the hardware uses */
byte listed = 1;				/* the container's domain has the function on its list */
bool in_container = 1, owned = 1, configured = 1;

inline to_blocked()
{
	if
	:: domain != BLOCKED ->
		if
		:: domain == CONTAINER ->
			lock(list_lock);
			assert(listed == 1);
			listed = 0;
			unlock(list_lock)
		:: else
		fi;
		assert(table == domain);	/* nobody else attaches at the same time */
		table = BLOCKED;
		lock(dom_lock);
		domain = BLOCKED;
		unlock(dom_lock)
	:: else
	fi
}

inline to_default()
{
	to_blocked();
	assert(table == BLOCKED);
	table = DEFAULT;
	lock(dom_lock);
	domain = DEFAULT;
	unlock(dom_lock)
}

inline detach_container()
{
	lock(container_lock);
	lock(iommu_lock);
	assert(owned);
	to_default();
	owned = 0;
	unlock(iommu_lock);
	in_container = 0;
	unlock(container_lock)
}

active proctype unplug()
{
	lock(state_lock);
	lock(rescan_lock);
	lock(vfio_lock);
#ifndef BUG
	lock(group_lock);
	if
	:: in_container -> detach_container()
	:: else
	fi;
	unlock(group_lock);
#endif
	unlock(vfio_lock);
#ifndef BUG
	lock(iommu_lock);
	assert(!owned);
#endif
	to_blocked();			/* the release domain */
#ifndef BUG
	unlock(iommu_lock);
#endif
	unlock(rescan_lock);
	configured = 0;
	unlock(state_lock)
}

active proctype unset_container()
{
	lock(group_lock);
	if
	:: in_container -> detach_container()
	:: else				/* EINVAL */
	fi;
	unlock(group_lock)
}
