/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The scenario vfio.unplug_vs_unset_container, by hand: unplug takes the last device of a
 * group away while UNSET_CONTAINER detaches it. With -DBUG: known bug G2.
 */
#include "mutex.h"

mutex vfio_lock, group_lock, device_lock, container_lock, iommu_lock;
bool registered = 1, device_listed = 1, in_container = 1, owned = 1, has_iommu_group = 1;
byte device_refs = 1, drivers = 1, container_refs = 2;
bool completed, translated = 1;

inline detach_container()
{
	lock(container_lock);
	assert(translated);		/* type1: the group has a domain */
	translated = 0;
	lock(iommu_lock);
	assert(owned);			/* a group is released once */
	owned = 0;
	unlock(iommu_lock);
	in_container = 0;
	unlock(container_lock);
	d_step { assert(container_refs > 1); container_refs-- }
}

active proctype unplug()
{
	lock(device_lock);
	device_listed = 0;
	unlock(device_lock);
	registered = 0;
	d_step { device_refs--; completed = (device_refs == 0) }
	completed;
	d_step { drivers-- }
	lock(vfio_lock);
#ifndef BUG
	lock(group_lock);
#endif
	assert(!device_listed);
	if
	:: in_container -> detach_container()
	:: else
	fi;
	has_iommu_group = 0;
#ifndef BUG
	unlock(group_lock);
#endif
	unlock(vfio_lock);
	lock(iommu_lock);
	assert(!owned);			/* the IOMMU group loses its last device */
	unlock(iommu_lock)
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
