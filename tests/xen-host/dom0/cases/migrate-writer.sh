# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest that writes most of its memory, and a disk.
disked
migrate disked ''
arrived disked
balloons disked 176
