#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Makes a mediated device with two serial ports, uses it in both ways, and removes it.
# Usage: mtty.sh CLIENT [ARGUMENT ...], where the client is mtty_client.py
set -eu
uuid=83b8f4f2-509f-382f-3c1e-e6bfe0fa1001
types=/sys/class/mdev_bus/mtty/mdev_supported_types
device=/sys/bus/mdev/devices/$uuid

counts() { echo "$1: $(cat $types/mtty-1/available_instances) single, $(cat $types/mtty-2/available_instances) dual"; }

counts before
echo $uuid > $types/mtty-2/create
counts made
echo "type: $(cat $device/mdev_type/name)"
echo "driver: $(basename "$(readlink $device/driver)")"
cat $device/vendor/sample_mdev_dev
(echo $uuid > $types/mtty-1/create) 2> /dev/null || echo "not twice"
"$@" cdev $uuid
"$@" group $uuid
echo 0 > $device/remove
[ -e $device ] && echo "still there"
echo 1 > $device/remove
[ -e $device ] || echo "gone"
ls $types/mtty-2/devices
counts after
