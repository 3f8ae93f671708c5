# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that hardly writes.
VCPUS=2 shared moved 128 128 "memory=12:500"
says moved 'MEMORY ok' 60
migrate moved ''
arrived moved
balloons moved 128
