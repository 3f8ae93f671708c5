# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that writes most of its memory, and a disk, which is read and checked throughout; one of its
# two vcpus is unplugged. The backend has pages of the guest mapped, and writes them without a mark in
# the log: they are counted.
disked
xl vcpu-set disked 1
migrate disked ''
arrived disked
checked=$(grep -c 'DISK ok' $(console disked))
balloons disked 176
[ $(grep -c 'DISK ok' $(console disked)) -gt $checked ]
unlogged=$(sed -n 's/.*; \([0-9]*\) pfns have writers.*/\1/p' disked.log | tail -n 1)
[ "$unlogged" -gt 5 ] || { cat disked.log; false; }
echo "SHOW disk: $unlogged pfns of writers that are not logged"
